"""Sentences with slots, in the manner of chats, letters, notes, reviews and news.

`[a|b]` is one or the other (nothing is allowed: `[|b]`). Slots: `{P}` whole name, `{F}` given name, `{S}` family name,
`{L}` place, `{A}` address, `{T}` street, `{C}` company, `{X}` thing that is nobody's name, `{H}` heading or role, `{D}`
day, `{I}` identifier, `{N}` number, `{E}` e-mail, `{U}` user name, `{O}` telephone number, `{W}` ordinary words,
`{V}` what somebody does.
"""

from __future__ import annotations

PEOPLE = r"""
[Good morning|Good afternoon|hello|Hi|hey|Dear] {F}[,|!|] [thanks for joining|sorry for the late reply|any news about {X}?|hope the trip to {L} went well]
[Could|Can|Would] you [please |][ask|tell|remind|email|call|text] {P} [whether|that] the [package|invoice|contract] [arrived|is late|was signed]?
As {P} [told|explained to|promised] me [yesterday|on {D}], the office in {L} closes at noon.
my [wife|husband|brother|sister|mother|father|son|daughter|cousin|uncle|aunt|neighbour|colleague|friend|landlord|teacher|dentist] {F} [lives in|moved to|loves|is afraid of|works in] {L}
my [wife|husband|brother|partner|friend|flatmate] {P} and I [are looking for|want to buy|moved into] a flat near {T}
[Attendees|Participants|Present|Invited|Team|Winners|Judges]: {P}, {P}[, {P}|][, and {P}| and {F}]
[Author|Written by|Prepared by|Approved by|Signed|Submitted by|Reported by|Owner|Requester|Assignee]: {P}
[Signed-off-by|Co-authored-by|Reviewed-by|Acked-by|Tested-by|Reported-by]: {P} <{E}>
[assigned|reassigned|escalated|forwarded] to {P} by {P} on {D}
[Sincerely|Regards|Best|Best regards|Kind regards|Cheers|Thanks|Many thanks|Yours truly|Warmly],\n{P}
[Regards|Thanks|Best],\n{F} {S}\n[Head of Sales|Senior {H}|{X} Team], {C}\n{O}
[Ship|Send|Deliver|Post] it to {P}, {A}[, before {D}|].
I [was born|grew up|studied|live] in {L} and my [mother|teacher|boss] is {P}.
[Mr|Mr.|Mrs|Mrs.|Ms|Ms.|Miss|Dr|Dr.|Prof.|Professor|Sir|Lady|Captain|Sergeant|Judge|Senator|Rev.|Father|Sister] {S} [arrives|called|will see you|is away|has approved the plan] [on the 5th|again|at noon|until {D}].
[Mr|Mr.|Mrs.|Ms.|Dr.|Prof.] {P} [and [Mr|Mr.|Mrs.|Ms.] {P} |][met|spoke to|wrote to] [us|the board|{C}] in {D}.
Professor {S} [published a paper|gave a talk|wrote a book] about {X}.
[Interview notes|Candidate|Applicant|New hire]: {P}, based in {L}, asks for {N}k.
{P} [asked|said|wrote|replied|wondered|shouted|added]: "[is|where is|have you seen] {F} [coming too|today]?"
[Patient|Client|Resident|Member|Customer|Guest|Passenger|Student]: {P}\n[Address|Home address]: {A}\n[Complaint|Notes|Reason]: {W}
the [tenant|owner|buyer|lodger] {P} of {A} has not [paid rent|answered|moved out]
please book [a hotel|a table|two seats|a flight] near {L} for {P} and {P}
write [a poem|a toast|a song|a short story|a limerick|a farewell speech] for [my daughter|my grandma|our boss|my best friend] {F} who loves {W}
what does {F} mean when [she|he|they] says "{W}"?
[my manager|our lead|the new guy|that intern|my ex|my girlfriend|my bf] {F} keeps [scheduling meetings|texting me|asking about {X}|ignoring me] [at 6pm|all day|]
{F}: [are we still on for tonight?|did you see my mail?|ok|lol]\n{F}: [yes, see you in {L}|not yet|haha sure|{W}]\n{F}: [cool|thx|👍|{W}]
[User|Customer|Member|Agent|Caller] {P} (id {N}) [logged in|phoned|paid|complained] [from {L}|]
[Contact|Call|Ask for|Ping|Reach out to|Escalate to|Speak with|Talk to|See|Email|cc] {P} [for details|about the {L} branch|if {X} fails|({O})|at {E}|].
{P}'s [laptop|passport|bag|car|bike|account|card|badge] was [stolen|found|lost|blocked] at {T}.
Tell {F} that {F}'s [flight to {L}|appointment|order|delivery] is delayed.
In {L}, {P} [opened a bakery|won an award|was arrested|started a company|ran a marathon] last [spring|year|{D}].
According to {P}[, {H} at {C}|], sales in {L} dropped {N}%.
[Statement of|Testimony of|Affidavit of|Case of|Appeal by] {P}, [residing|domiciled|living] [in|at] {A}
The [letter|parcel|cheque|invite|subpoena] was [addressed|sent|returned] to {P}, {T}, {L}.
[Next of kin|Guardian|Spouse|Beneficiary|Referee|Witness|Driver|Sender|Recipient|Payee|Account holder|Cardholder|Policy holder]: {P}[, {O}|, amount {N} EUR|]
[Billing|Shipping|Delivery] name: {P}\n[Billing|Shipping|Delivery] address: {A}
meeting [w/|with] {F} [+|and|&] {F} re: {X} [budget|migration|launch]
Minutes taken by {P}; apologies from {P}[ and {P}|].
Dear [Dr.|Mr.|Mrs.|Ms.|Prof.] {S},\n{W}
To whom it may concern, {P} was [employed with us|a tenant of ours|enrolled here] until {D}.
i think {F} from {L} is [the best fit|great|not ready] for [the team|{X}]
[Recommend|Nominate|Consider] {P} for the [award|job|promotion] and mention [her|his|their] work in {L}.
{P} - [Senior |Junior |Lead |]{H} - {L}
[Q|Question]: Who [approved|wrote|broke] it?\n[A|Answer]: {P} [did|, I think].
You are an assistant for {P}[, who works at {C}|]. [Answer in a friendly tone.|{W}]
The user's name is {F}. [They live in {L}.|{W}]
[call|meet|visit|see|text] {F} about the {L} trip
{P} ([born|b.] {N}, {L}) [is|was] a [singer|painter|writer|footballer|politician|physicist|actor] [of|from] {L}.
[Directed|Produced|Edited|Composed|Illustrated|Translated|Narrated|Photographed] by {P}[ and {P}|]
[Starring|Cast|With|Featuring]: {P}, {P} and {P}
The [novel|film|album|play|painting|symphony] by {P} [is|was] [a masterpiece|overrated|released in {D}].
[early|late|classic|vintage] {S} [records|novels|films] are [better|worse] than anything by {P}.
I [just finished|am reading|love] {P}'s [new |last |]{W}, and [it|the ending] is [great|a mess].
{S} [scored|missed|passed to {S}|was sent off|won the first set] in the {N}th minute [against {L}|].
[President|Prime Minister|Chancellor|Minister|Mayor|Governor|King|Queen|Pope|Bishop|Coach|CEO] {S} [visited|left|spoke in|praised] {L} on {D}.
[who|what] is {P}?
[who is|where is|how old is|do you know] {P} [and what did [he|she] do|]?
{P} [joined|left|founded|leads|sued|was fired by] {C} [in {N}|last year|]
[my name is|I'm|i am|this is|name's|they call me|It's] {P}[ and [i|I] [work at|need help with|forgot my] {W}|, {W}|]
[my name is|I'm|i am|this is|It's] {F}[ from {L}| from {C}|, how can I help|, nice to meet you|]
[thanks|thank you|thx|ty|bye|goodnight|congrats|happy birthday|welcome|sorry|please|yo|love you|hang on] {F}[!|.|,|]
[Agent|Bot|Rep]: [Can I have your name?|And the name on the booking?|Who am I speaking with?]\n[User|Customer|Caller|Me]: {P}
[put|add|change|book|register|enter] [the name|it|the account|the reservation] [under|to|for|as] {P}
[I|we] [met|saw|hired|invited|married|miss|trust] {P} [in {L}|at {C}|last {D}|].
{P} and {P} [got married|argued|had dinner|share a desk] [in {L}|on {D}|].
[The report|This policy|My thesis|The deck] was [reviewed|written|presented|signed off] by {P} [from|of] {C}.
[a] cheque for {N} from {S} {C}, signed by {P}
{F} and [I|me] [are going to|went to|love] {L}
[have you|did you] [told|tell|asked|ask] {F} [yet|about {X}]?
so [then |]{F} [goes|was like|said] "{W}" and {F} [just laughed|left]
[Happy to|Let me] introduce {F} [({F} is our new {H})|, our new {H}]. {F}, meet {F}.
- {P}: [action|to do|owner of|follow up on] {W}
{N}. {P} - {W}
[x] {F} to [send|fix|review] {W} by {D}
@{F} [could you|pls|can you] [look at|merge|check] this? cc @{F}
The [appointment|meeting|hearing|exam] of {P} is on {D} {N} at {T}.
[Passport|Visa|Licence|Ticket|Certificate] [issued to|in the name of|belongs to] {P}[, born in {L}|].
[Her|His|Their] full name is {P}, but everyone calls [her|him|them] {F}.
[The late|Old|Young|Poor|Little|Dear] {F} [used to say|never knew|was right].
{F} {S} ([CEO|founder|{H}], {C}) [said|tweeted|announced] {W}
Please [transfer|wire|refund] {N} to {P}, IBAN on file.
From {L} to {L} with {F} and the [kids|dog|team].
Subject: {X} [for|from|and] {P}
[Fwd|Re]: [lunch with|question from|meeting|note for] {F}
"{W}," [said|replied|whispered|asked] {P}.
"{W}" - {P}
[Emergency|Primary|Secondary|Technical|Billing] contact is {P}, {O}.
[Dr.|Nurse|Dr] {S} [prescribed|examined|admitted|discharged] [Mr.|Mrs.|Ms.] {S} on {D}.
[Plaintiff|Claimant|Respondent|Appellant|Petitioner|Accused] {P} [claims|argues|denies] {W}
[If|When] {F} [calls|comes|asks], [tell|give] [him|her] {W}.
[Lunch|Coffee|1:1|Call|Sync|Dinner] with {F} [at {N}|on {D}|]
{P}\n{T}\n{L}
{P}\n{C}\n{A}
To: {P}\nFrom: {P}\n{W}
Visit [{P}'s|{F}'s] [profile|page|blog] [for more|on {X}].
Comment by {P} on {D} {N}: {W}
hi im {F} and im from {L}
do u know {F} {S}? [she|he] is in my class
nah {F} is [funny|weird|cool] tho
[good|great] to [meet|hear from] you {F}
we named our [son|cat|dog|baby] {F}
{F} {V} {W}
{P} {V} {W}
{F} and {F} {V} {W}
{W} {F} {V} {W}
{W} [that|because|while|when|if|so|but|and] {F} {V} {W}
{W} [that|because|while|when|if|so|but|and] {P} {V} {W}
{W} [to|for|from|with|by|about|of|than|like|after|without] {F}[ and {F}|] {W}
{W} [to|for|from|with|by|about|of|than|like|after|without] {P}[ and {P}|] {W}
{W}, {F} {V} {W}, {F} {V} {W}
{X}: {F} {V} {W}
[Why|When|How|Where] [is|was|did|does|has] {F} [so |]{W}?
{S} {V} {W} [after|before|than] {S}[ had|]
[the|that|a|every|this] {S} [case|report|family|house|song|theory|trade|wedding|account|file]
{W} was [written|painted|made|found] by {S} [in|and] {W}
{F}'s {W} [is|was] {W}
{P}\n{H}\n{T}\n{L}
Name: {P}[;|,|\n|] [DOB|D.O.B.|Date of birth|SSN|Tel|Fax|Phone|Sex|Age|NHS|Passport|E-mail|Email|Mobile|Desk|VAT|Account|IBAN|Zip|Ref]: {N}
{P} [works for|works at|is with|left|joined|called from|buys from|represents] {C}[.| in {L}.]
[Kind regards|Regards|Best],\n{P}\n{C}
""".strip().split("\n")

PLACES = r"""
Is there a [bus|train|ferry|direct flight] from {L} to {L}?
How far is {T} from the [airport|station|beach] in {L}?
What is the [weather|time|capital|population|best restaurant] in {L}?
The [branch|shop|clinic|warehouse] at {A} [closes|opens] at {N}.
I [live|am|stay|work|park] [at|on|near] {T}.
[Headquartered|Based|Located|Registered] in {L}, {C} [employs|serves|owns] {N} people.
[Deliver|Ship] to: {A}
The [city|town|village|district|province] of {L} [lies|was built] [near|north of] {L}.
My address is {A}[, phone {O}|].
Translate this: I moved to {L} in {N}.
plan a [3 day|weekend|cheap] trip to {L}
""".strip().split("\n")

NOBODY = r"""
Explain [the|] {X} [method|theorem|algorithm|pattern] in simple terms.
In {X}, `{I}` runs after {X}; in {X} it does not.
Deploy the {X} [chart|stack|image] to the {X} [cluster|account] with {X}.
The {X} build fails on {X} but works on {X}.
Write a {X} script to rotate logs every {D} in {D}.
Compare {X} with {X} [and {X} |]for {W}.
[Contact|Call|Ask|See|Email|Escalate to] {H} [for details|if {X} fails|at {E}].
Dear {H},\n{W}
[Regards|Thanks|Best],\nThe {X} Team
[Author|Owner|Maintainer|Vendor|Assignee|Reviewer]: {C}
[assigned|escalated] to [the |]{X} [team|group|queue] on {D}
{C} [announced|bought|sued|hired|opened] {W} [on {D}|with {C}|].
[I work at|my bank is|ask] {C}[, a {H} company|].
[The|Your|Our] [order|quote|contract|offer|complaint|account] [with|from|of|to] {C}[.| in {L}.]
{W} [at|for|with|from|by|of|to] {C}[.| in {L}.| and {C}.]
{C} [makes|sells|is known for|is short of] {W} [in {L}|{W}].
{C}\n{T}\n{L}
[Tel|Fax|Desk|Phone|Mobile|DOB|VAT|E-mail]: {O}\n[Tel|Fax|Desk|Phone|Mobile|Web|VAT|Ref]: {N}
{X} {X} {W} {X}
{X}: {W}
- **{X}**: {W}
## {H}
### {X} {N}.{N}
{H}\n\n{W}
| {X} | {H} | {N} |
Use {X} to merge the {X} sheets.
{X}, {X} and {X} all support {X}.
Meeting on {D} {N} at {N}:00 about {X}.
The {H} [must|should|can] [approve|review] the {X} before {D}.
{I}({I}, {I}) raised {I} at line {N}
See [{X}|the {X} docs] for {W}.
[The album|The film|The show|The magazine] "{H}" by {C} came out on {D}.
I prefer {X} food and {X} music.
What are the {H} of {X}?
{W}
{W} {X} {W}
[Sure|Okay|Great|Yes|No|Hello|Thanks|Please|Sorry|Well|Absolutely|Certainly][!|,|.] {W}
Step {N}: [Open|Click|Select|Run|Install] {X} [and|then] [choose|type] {H}.
""".strip().split("\n")
