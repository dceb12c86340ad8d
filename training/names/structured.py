"""Machine-made texts: JSON, YAML, tables, logs, code, mail headers. Names stand where a key says so, or do not."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from things import DAYS, HEADINGS, NOUNS, TECH, identifier

PERSON_KEYS = """name full_name fullName customer customer_name customerName author contact contact_name owner assignee reporter
reviewer manager employee patient patient_name student teacher client sender recipient from to cc user display_name displayName
userName cardholder cardholderName account_holder beneficiary payee passenger guest guest_name driver signer signed_by createdBy
created_by updated_by approver requested_by lead coach speaker host member tenant landlord buyer seller shipTo bill_to person
nominee legal_name preferredName emergency_contact spouse next_of_kin agent_name attendee organizer participants""".split()
FIRST_KEYS = "first_name firstName first given_name givenName fname forename nickname".split()
LAST_KEYS = "last_name lastName last family_name familyName surname lname".split()
PLACE_KEYS = "city town location country state region place birthplace city_name shipping_city".split()
ADDRESS_KEYS = "address street home_address shipping_address billingAddress addr line1".split()
OTHER_KEYS = """name title product service status type kind role team department company vendor plan tier label category model
framework language region_name environment cluster repo branch project queue topic event action method format source target
display_name owner author publisher brand subject description message level severity tool function schema class module
DOB dob Fax Tel VAT SSN Ref sex gender currency iban""".split()
LATER = "TO" + "DO"
LEVELS = "INFO WARN ERROR DEBUG info error [info] WARNING notice".split()


class Fields:
    """Keys with slots for values: each pair holds a person, a place or neither."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def pair(self) -> tuple[str, str]:
        """A key and its slot."""
        rng, luck = self._rng, self._rng.random()
        if luck < 0.3:
            return rng.choice(PERSON_KEYS), "{P}" if rng.random() < 0.8 else "{F}"
        if luck < 0.38:
            return rng.choice(FIRST_KEYS), "{F}"
        if luck < 0.46:
            return rng.choice(LAST_KEYS), "{S}"
        if luck < 0.53:
            return rng.choice(PLACE_KEYS), "{L}"
        if luck < 0.57:
            return rng.choice(ADDRESS_KEYS), rng.choice(["{A}", "{T}"])
        if luck < 0.62:
            return rng.choice(["email", "mail", "contact_email", "login"]), "{E}"
        if luck < 0.66:
            return rng.choice(["phone", "tel", "mobile"]), "{O}"
        if luck < 0.72:
            return rng.choice(["id", "amount", "count", "age", "order_id", "zip"]), "{N}"
        if luck < 0.78:
            return rng.choice(["username", "login", "handle", "uid"]), "{U}"
        return rng.choice(OTHER_KEYS), rng.choice(["{X}", "{X}", "{C}", "{I}", "{H}", "{W}", "{D}"])

    def pairs(self, least: int = 1, most: int = 6) -> list[tuple[str, str]]:
        """Some pairs, no key twice."""
        return list(dict(self.pair() for _ in range(self._rng.randint(least, most))).items())


def _json(rng: random.Random) -> str:
    pairs: dict[str, object] = dict(Fields(rng).pairs())
    if rng.random() < 0.3:
        pairs = {rng.choice(["user", "customer", "data", "payload", "order", "ticket", "arguments", "input"]): pairs}
    if rng.random() < 0.2:
        pairs[rng.choice(["people", "members", "attendees", "names", "tags"])] = rng.choice(
            [["{P}", "{P}"], ["{F}", "{F}", "{F}"], ["{X}", "{X}"]]
        )
    whole: object = [pairs, dict(Fields(rng).pairs())] if rng.random() < 0.15 else pairs
    text = json.dumps(whole, indent=rng.choice([None, None, 2]), separators=rng.choice([(", ", ": "), (",", ":")]))
    return text.replace('"', '\\"') if rng.random() < 0.12 else text.replace('"', "'") if rng.random() < 0.1 else text


def _lines(rng: random.Random) -> str:
    glue = rng.choice([": ", ": ", ":", " = ", "=", " - ", "\t"])
    mark = rng.choice(["", "", "- ", "* ", "  ", "# ", "// "])
    style: Callable[[str], str] = rng.choice([str, str.title, lambda key: key.replace("_", " ").capitalize()])
    return "\n".join(f"{mark}{style(key)}{glue}{value}" for key, value in Fields(rng).pairs(2, 6))


def _inline(rng: random.Random) -> str:
    glue, between = rng.choice([("=", "&"), ("=", " "), (": ", "; "), (": ", ", "), ('="', '" '), ("=", ", ")])
    return between.join(f"{key}{glue}{value}" for key, value in Fields(rng).pairs(2, 6)) + (
        '"' if between == '" ' else ""
    )


def _table(rng: random.Random) -> str:
    pairs = Fields(rng).pairs(2, 6)
    rows = rng.randint(1, 4)
    mark = rng.choice([",", ",", ";", "\t", "|", " | "])
    lines = [mark.join(key for key, _ in pairs)] if rng.random() < 0.8 else []
    if mark == " | ":
        lines = [f"| {mark.join(key.title() for key, _ in pairs)} |", "|" + " --- |" * len(pairs)]
    quote = '"' if rng.random() < 0.2 else ""
    for _ in range(rows):
        row = mark.join(f"{quote}{value}{quote}" for _, value in pairs)
        lines.append(f"| {row} |" if mark == " | " else row)
    return "\n".join(lines)


def _markup(rng: random.Random) -> str:
    inner = rng.choice(["", "\n  "]).join(f"<{key}>{value}</{key}>" for key, value in Fields(rng).pairs(1, 4))
    tag = rng.choice(["user", "row", "contact", "order", "li", "div"])
    return f"<{tag}>{inner}</{tag}>" if rng.random() < 0.8 else f'<{tag} name="{{P}}">{{W}}</{tag}>'


def _log(rng: random.Random) -> str:
    stamp = rng.choice(
        [
            "2025-03-0{d} 1{d}:2{d}:0{d}",
            "[0{d}/Mar/2024:10:1{d}:22 +0000]",
            "Nov 1{d} 0{d}:44:5{d} host{d} app[{d}2{d}]:",
            "2026-01-1{d}T0{d}:31:4{d}.12{d}Z",
        ]
    )
    stamp = stamp.replace("{d}", str(rng.randint(0, 9)))
    source = rng.choice(
        [
            "",
            rng.choice(NOUNS) + rng.choice(NOUNS) + ": ",
            rng.choice(TECH).lower() + " ",
            f"[{rng.choice(NOUNS).lower()}-{rng.randint(1, 20)}] ",
            "com.acme." + rng.choice(NOUNS) + " - ",
        ]
    )
    said = rng.choice(
        [
            "user {P} logged in from {L}", "created order {N} for {P} <{E}>", "password reset requested by {P}", "sent invoice to {P} ({E})",
            "{P} uploaded {I}", "job {I} started", "failed to connect to {X} ({I})", "starting {X} {N}.{N}.{N}", "{I}: {W}", "cache miss for {I}",
            "payment of {N} by {F} {S} declined", "call from {P} to {P} ended after {N}s", "{X} worker {N} exited: {I}", "profile updated name={P} city={L}",
            "Loading {X} plugin {I}", "session closed for user {U}", "GET /api/{U}/{N} 200 {X}", "{H} finished in {N} ms", "{X} reloaded by {U}",
        ]
    )  # fmt: skip
    return f"{stamp} {rng.choice(LEVELS)} {source}{said}"


def _code(rng: random.Random) -> str:
    quote = rng.choice("\"'")
    person = rng.choice(["{P}", "{P}", "{F}"])
    name, thing = (
        rng.choice(["name", "author", "owner", "customer", "user_name", "fullName", "patient", "assignee"]),
        identifier(rng),
    )
    q = quote
    return rng.choice(
        [
            f"{name} = {q}{person}{q}", f"const {name} = {q}{person}{q};", f"let {thing} = {q}{{X}}{q};  // {{W}}", f"# {LATER}({{F}}): {{W}}",
            "// {P}: {W}", "@author {P}", f"Copyright (c) 20{rng.randint(10, 26)} {{P}}", f"Copyright 20{rng.randint(10, 26)} {{C}}. All rights reserved.",
            f"{thing}({name}={q}{person}{q}, {rng.choice(OTHER_KEYS)}={q}{{X}}{q})", f"{thing}({q}{{X}}{q}, {q}{{I}}{q}, {{N}})",
            "SELECT * FROM {I} WHERE last_name = '{S}' AND city = '{L}';", "SELECT {I}, {I} FROM {I} WHERE {I} = '{X}'",
            "INSERT INTO {I} (name, city, email) VALUES ('{P}', '{L}', '{E}'), ('{P}', '{L}', '{E}');",
            f"class {{I}}({{I}}):\n    {q * 3}{{W}}{q * 3}\n    kind = {q}{{X}}{q}", "import {I}\nfrom {I} import {I}, {I}", "assert {I}({q}{P}{q}) == {q}{F}{q}".replace("{q}", q),
            f"new {rng.choice(NOUNS)}({q}{{F}}{q}, {q}{{S}}{q}, {{N}})", f"print(f{q}Hello {{F}}{q})", f"names = [{q}{{P}}{q}, {q}{{P}}{q}, {q}{{P}}{q}]",
            f"tags = [{q}{{X}}{q}, {q}{{X}}{q}, {q}{{I}}{q}]", f"if {thing}.name == {q}{person}{q}:\n    return {thing}", 'raise {I}("{X} {W}")',
            f"git commit -m {q}{{X}}: {{W}}{q} --author={q}{{P}} <{{E}}>{q}", "kubectl apply -f {I}.yaml -n {I}", "docker run --name {I} {I}:{N}", "curl -X POST https://api.example.org/{I} -d 'name={P}&city={L}'",
            "public class {I} extends {I} implements {I} { }", f"func {{I}}(ctx Context, {name} string) (*{{I}}, error)", "<{I} title={q}{X}{q}>{H}</{I}>".replace("{q}", q),
            "enum {I} {{ {I}, {I}, {I} }}".replace("{{", "{ ").replace("}}", " }"), f"it({q}should {{W}}{q}, () => {{I}}({q}{person}{q}))", "ENV {I}={X}\nRUN {W}",
        ]
    )  # fmt: skip


def _call(rng: random.Random) -> str:
    verb = rng.choice(
        [
            "create_contact",
            "book_table",
            "search_people",
            "update_ticket",
            "schedule_meeting",
            "lookup",
            "add_note",
            "transfer_funds",
        ]
    )
    pairs = Fields(rng).pairs(1, 4)
    if rng.random() < 0.5:
        body = json.dumps(dict(pairs))
        return rng.choice(
            [
                f'{{"name": "{verb}", "arguments": {body}}}',
                f"{verb}({body})",
                f"<tool>{verb}</tool><input>{body}</input>",
            ]
        )
    return f"{verb}({', '.join(f'{key}={json.dumps(value)}' for key, value in pairs)})"


def _mail(rng: random.Random) -> str:
    date = f"{rng.choice(DAYS)}, {rng.randint(1, 28)} {rng.choice(DAYS[7:19])} 202{rng.randint(0, 6)}"
    head = [
        f"From: {rng.choice(['{P} <{E}>', '{P}', '{E}', '{C} <{E}>', '{X} <{E}>'])}",
        f"To: {rng.choice(['{P} <{E}>', '{P}', '{E}', '{H} <{E}>'])}",
    ]
    if rng.random() < 0.4:
        head.append("Cc: " + rng.choice(["{P}", "{P}; {P}", "{P} <{E}>, {P} <{E}>"]))
    head += rng.sample(
        [
            f"Date: {date}",
            "Subject: {X} {W}",
            f"Subject: {rng.choice(HEADINGS)}",
            "Sent: {D}",
            "Subject: Re: {F}'s question",
        ],
        2,
    )
    greeting = rng.choice(
        ["Hi {F},", "Dear {F},", "{F},", "Hello all,", "Dear {H},", "Hi {F} and {F},", "Good morning,"]
    )
    close = rng.choice(
        [
            "Best,\n{F}",
            "Regards,\n{P}",
            "Thanks,\n{P}\n{H}, {C}",
            "Cheers\n{F}",
            "-- \n{P} | {H} | {C}",
            "Thanks,\nThe {X} Team",
            "Sent from my {X}",
        ]
    )
    quoted = rng.choice(
        [
            "",
            f"\n\nOn {date}, {{P}} wrote:\n> {{W}}",
            f"\n\nOn {date} {{P}} <{{E}}> wrote:\n> Hi {{F}},\n> {{W}}",
            "\n\n-----Original Message-----\nFrom: {P}\nSent: {D}",
        ]
    )
    return "\n".join(head) + f"\n\n{greeting}\n{{W}}\n\n{close}{quoted}"


def _chat(rng: random.Random) -> str:
    style = rng.choice(
        [
            "{F}: {W}",
            "[10:{N}] {F}: {W}",
            "<{U}> {W}",
            "**{F}**: {W}",
            "{P}: {W}",
            "{P} - {D}\n{W}",
            "{H}: {W}",
            "[{N}:{N}] {P}: {W} @{F}",
        ]
    )
    return "\n".join([style] * rng.randint(2, 4))


def _list(rng: random.Random) -> str:
    slot = rng.choice(
        [
            "{P}",
            "{P}",
            "{F}",
            "{X}",
            "{X}",
            "{X}",
            "{X}",
            "{H}",
            "{L}",
            "{S}, {F}",
            "{P} ({H})",
            "{P} -- {C}",
            "{C}",
            "{I}",
        ]
    )
    glue = rng.choice([", ", "; ", "\n", "\n- ", "\n* ", " / ", " & ", "\n1. "])
    return glue.join([slot] * rng.randint(2, 6))


SHAPES = (
    (_json, 6),
    (_lines, 4),
    (_inline, 3),
    (_table, 4),
    (_markup, 2),
    (_log, 4),
    (_code, 8),
    (_call, 3),
    (_mail, 3),
    (_chat, 2),
    (_list, 3),
)
_BAG = [make for make, weight in SHAPES for _ in range(weight)]


def structured(rng: random.Random) -> str:
    """A template with slots, as `prose` has them, in the shape of some machine-made text."""
    return rng.choice(_BAG)(rng)
