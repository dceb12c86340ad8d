"""Secrets without a vendor's prefix: key blocks, JWTs, URIs with a password, and what is assigned to a telling name.

No rule here rests on entropy alone: a marker, a name, a scheme or a checksum stands beside the value. Patterns are RE2,
over texts in which every character outside of ASCII is a `?`. All repeats that could meet themselves are bounded, or
may only begin where no like character stands before them, so that a hostile text costs linear time.
"""

from __future__ import annotations

from typing import Final, NamedTuple

COUNTED: Final = 64


class Context(NamedTuple):
    """One rule: the first group that took part is the value, without groups the whole match is.

    `again`: after a value that the judge turned down the search goes on inside of it, since what looked like a value
    may be the name of the next assignment. Such a value is counted up to `COUNTED` characters, which keeps a hostile
    text cheap; the detector follows a longer one to its end.
    """

    id: str
    kind: str
    judge: str
    pattern: str
    again: bool = False


_START: Final = r"(?:^|[^A-Za-z0-9_-]|\\[nrt])"
_QUOTE: Final = r"[\\'\"`]{0,4}"
_ANNOTATION: Final = r"(?:[ \t]{0,2}:[ \t]{0,2}[A-Za-z_][A-Za-z0-9_.\[\]|]{0,24})?"
_ASSIGN: Final = rf"{_QUOTE}{_ANNOTATION}[ \t]{{0,4}}(?:=>|:=|==?|:|\bis\b:?|\bwas\b:?)(?:[ \t]|\\?\n){{0,4}}"
_OPEN: Final = r"(?:[brf]{0,2}[\\'\"`(]{1,4})?"  # a string may have a prefix: b"..."
_VALUE: Final = r"([A-Za-z0-9_+/.~:%@!-]{10,64}={0,3})"
_BARE: Final = r"[^\s\"'`,;<>()\\]{6,64}"
_NAMES_OF_KEYS: Final = (
    r"api[_.\- ]?(?:key|token|secret)|access[_.\- ]?(?:key|token)(?:[_.\- ]?(?:id|secret|value))?|"
    r"secret(?:[_.\- ]?(?:access|api|app))?[_.\- ]?(?:key|token|value)|(?:client|app|application|consumer|shared|webhook|"
    r"signing|jwt|token|session|oauth|cookie|api|bot|master|account|hmac)[_.\- ]?(?:secret|key)|"
    r"(?:auth|authentication|authorization|refresh|id|session|bot|deploy|personal|service|user|bearer|app|account|"
    r"private|security|push|device|management|admin)[_.\- ]?(?:access[_.\- ]?)?token|"
    r"(?:private|encryption|encrypt|decryption|service|storage|subscription|license|licence|ssh|wallet)[_.\- ]?key|"
    r"auth[_.\- ]?key|credentials?|\bsecret|\btoken"
)
_NAMES_OF_WORDS: Final = (
    r"pass(?:word|wd|phrase|code)s?|passwrd|pswd|pwd|(?:[_.-]|\b)pass(?:[_.-]?(?:enc|prod|dev))?|(?:[_.-]|\b)pw|passwort|"
    r"contrase[n?]a|mot[_ ]de[_ ]passe|senha"
)
_SUFFIX: Final = r"(?:[_.-]?(?:\d{1,2}|prod|production|dev|test|stage|staging|live|new|old|primary|secondary))?"
_OF: Final = r"(?:[ \t](?:for|of|to|on)[ \t][A-Za-z0-9_.@/ -]{1,40}?)?"

CONTEXTS: Final[tuple[Context, ...]] = (
    Context(
        "private-key-block",
        "PRIVATE_KEY",
        "block",
        r"-{4,5} ?BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)? ?-{4,5}(?:[^-]|-{1,3}[^-])+-{4,5} ?END "
        r"[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)? ?-{4,5}",
    ),
    Context(  # cut off before its end
        "private-key-begun",
        "PRIVATE_KEY",
        "block",
        r"-{4,5} ?BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)? ?-{4,5}(?:(?:\s|\\[nr])+[A-Za-z][A-Za-z-]{2,30}: "
        r"[^\n\\]{1,100}){0,8}(?:(?:\s|\\[nr])+[A-Za-z0-9+/]{16,}={0,2})+",
    ),
    Context(
        "putty-private-key",
        "PRIVATE_KEY",
        "block",
        r"PuTTY-User-Key-File-\d: [\s\S]+?Private-(?:MAC|Hash): [0-9a-fA-F]{40,64}",
    ),
    Context(
        "private-key-base64", "PRIVATE_KEY", "encoded-block", rf"{_START}(LS0tLS1CRUdJTi[A-Za-z0-9+/]{{60,}}={{0,2}})"
    ),
    Context("age-secret-key", "PRIVATE_KEY", "key", r"AGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}"),
    Context("bitcoin-wif", "PRIVATE_KEY", "wif", r"\b([5KL][1-9A-HJ-NP-Za-km-z]{50,51})\b"),
    Context("extended-private-key", "PRIVATE_KEY", "token", r"\b([xyzt]prv[1-9A-HJ-NP-Za-km-z]{100,112})\b"),
    Context("jwk-private-part", "PRIVATE_KEY", "token", r"\\?\"d\\?\"\s{0,4}:\s{0,4}\\?\"([A-Za-z0-9_-]{43,700})\\?\""),
    Context(
        "seed-phrase",
        "PRIVATE_KEY",
        "words",
        r"(?i)(?:mnemonic|(?:seed|recovery)[ _-]?(?:phrase|words))(?: is)?[^A-Za-z\n]{1,6}((?:[a-z]{3,8} ){11,23}[a-z]{3,8})\b",
    ),
    Context(
        "jwt",
        "JWT",
        "jwt",
        rf"{_START}(eyJ[A-Za-z0-9_-]{{8,}}\.(?:eyJ[A-Za-z0-9_-]{{2,}}(?:\.[A-Za-z0-9_-]*)?|(?:[A-Za-z0-9_-]*\.){{3}}"
        r"[A-Za-z0-9_-]+))",
    ),
    Context(
        "connection-string",
        "CONNECTION_STRING",
        "connection",
        r"(?i)\b((?:postgres(?:ql)?|postgis|mysql|mariadb|mongodb|rediss?|valkeys?|amqps?|mssql|sqlserver|oracle|"
        r"cockroachdb|clickhouse|snowflake|cassandra|neo4j|bolt|nats|kafka|mqtts?|ldaps?|db2|redshift|trino|presto|vertica|"
        r"couchbases?|influxdb|etcd|stomp)(?:\+[a-z0-9_]{1,20}){0,2}://[^\s:/@'\"`<>\\]{0,128}:[^\s'\"`<>\\]{1,256}@"
        r"[^\s'\"`<>\\)\]}|]{1,512})",
    ),
    Context(
        "uri-password",
        "PASSWORD",
        "uri",
        r"(?i)\b(?:https?|ftps?|sftp|ssh|scp|git|svn|smtps?|imaps?|pop3s?|socks[45]?h?|wss?|rtsps?|smb|dav|sip)"
        r"(?:\+[a-z]{1,10})?://[^\s:/@'\"`<>\\]{0,128}:([^\s@/'\"`<>\\]{1,256})@[A-Za-z0-9_\[]",
    ),
    Context("uri-token", "BEARER_TOKEN", "token", r"(?i)\bhttps?://([A-Za-z0-9_-]{20,255})@[a-z0-9]"),
    Context(
        "bearer-token",
        "BEARER_TOKEN",
        "assigned",
        r"(?i)\b(?:bearer|jwt)[ \t]{1,3}([A-Za-z0-9._~+/-]{16,64}={0,2})",
        again=True,
    ),
    Context("basic-credentials", "BEARER_TOKEN", "basic", r"(?i)\bbasic[ \t]{1,3}([A-Za-z0-9+/]{8,}={0,2})"),
    Context(
        "authorization-header",
        "BEARER_TOKEN",
        "assigned",
        rf"(?i)\b(?:proxy-|x-)?auth(?:orization|entication)?{_QUOTE}[ \t]{{0,3}}[:=,][ \t]{{0,3}}[\\'\"`f]{{0,4}}"
        r"(?:(?:bearer|basic|token|apikey|api-key|key|negotiate|digest|sso-key|genie\s?key)[ \t]{1,3})?"
        r"([A-Za-z0-9._~+/-]{12,64}={0,2})",
        again=True,
    ),
    Context(
        "session-cookie",
        "BEARER_TOKEN",
        "assigned",
        r"(?i)\b(?:sessionid|session_id|session|sid|phpsessid|jsessionid|connect\.sid|asp\.net_sessionid|auth_token|"
        r"[a-z0-9_-]{1,30}[_-]session(?:[_-]token)?)=([A-Za-z0-9%._~+/-]{16,64}={0,2})",
        again=True,
    ),
    Context(
        "signed-url",
        "BEARER_TOKEN",
        "key",
        r"(?i)[?&;](?:x-amz-signature|x-goog-signature|x-amz-security-token|sig|signature|hdnts|code|awsaccesskeyid)="
        r"([A-Za-z0-9%+/_=-]{32,})",
    ),
    Context(
        "assigned-token",
        "API_KEY",
        "assigned",
        rf"(?i)(?:{_NAMES_OF_KEYS})s?{_SUFFIX}{_OF}{_ASSIGN}{_OPEN}{_VALUE}",
        again=True,
    ),
    Context(  # the shape of environment variables
        "environment-token",
        "API_KEY",
        "assigned",
        rf"\b[A-Z][A-Z0-9_]{{1,40}}_(?:KEY|TOKEN|SECRET|PAT|AUTH|CREDENTIALS?|DSN){_QUOTE}[ \t]{{0,3}}[:=][ \t]{{0,3}}"
        rf"[\\'\"`]{{0,4}}{_VALUE}",
        again=True,
    ),
    Context(
        "option-token",
        "API_KEY",
        "assigned",
        rf"(?i)--?[a-z-]{{0,30}}(?:token|secret|api-?key|access-?key|auth-?key)[ =][\\'\"`]{{0,2}}{_VALUE}",
        again=True,
    ),
    Context(
        "assigned-password",
        "PASSWORD",
        "password",
        rf"(?i)(?:{_NAMES_OF_WORDS}){_SUFFIX}{_OF}{_ASSIGN}(?:[brf]{{0,2}}(?:\\?\"([^\"\\\n]{{6,}})\\?\"|\\?'([^'\\\n]{{6,}})\\?'|"
        rf"`([^`\\\n]{{6,}})`)|({_BARE}))",
        again=True,
    ),
    Context(  # a list of variables: `name: DB_PASSWORD` and, apart from it, `value: …`
        "named-value",
        "PASSWORD",
        "password",
        r"(?i)\bname[\\'\"]{0,2}\s{0,3}[:=]\s{0,3}[\\'\"]{0,2}[a-z0-9_.-]{0,40}(?:password|passwd|passphrase|secret|token|api_?key)"
        r"[a-z0-9_.-]{0,20}[\\'\"]{0,2}(?:,|\s){1,20}[\\'\"]{0,2}value[\\'\"]{0,2}\s{0,3}[:=]\s{0,3}[\\'\"]{0,2}"
        rf"({_BARE})",
        again=True,
    ),
    Context(
        "option-password",
        "PASSWORD",
        "password",
        rf"(?i)(?:--[a-z-]{{0,30}}(?:password|passwd|passphrase|pass|pwd)[ =]|\bsshpass -p ?|\bmysql(?:dump)?\b[^\n|]{{0,120}} -p)"
        rf"[\\'\"`]{{0,2}}({_BARE})",
        again=True,
    ),
    Context(
        "curl-user",
        "PASSWORD",
        "password",
        rf"(?i)\b(?:curl|wget|http)\b[^\n]{{0,300}}? (?:-u|--user|-a|--auth)[ =]?[\\'\"]{{0,2}}[^\s:'\"\\]{{1,80}}:({_BARE})",
    ),
    Context("netrc-password", "PASSWORD", "password", r"(?i)\blogin\s+\S{1,80}\s+password\s+(\S{6,128})"),
    Context(
        "sql-password",
        "PASSWORD",
        "password",
        r"(?i)(?:identified\s+(?:with\s+\S{1,40}\s+)?by|(?:encrypted\s+)?password)\s+'([^'\n]{6,128})'",
    ),
    Context(
        "element-password",
        "PASSWORD",
        "password",
        r"(?i)<(?:[a-z0-9]{1,20}:)?[a-z0-9_.-]{0,30}(?:password|passwd|passphrase|pwd)(?: [^<>]{0,100})?>([^<>\n]{6,128})</",
    ),
    Context(
        "element-token",
        "API_KEY",
        "assigned",
        r"(?i)<(?:[a-z0-9]{1,20}:)?[a-z0-9_.-]{0,30}(?:secret|token|api-?key|access-?key)(?: [^<>]{0,100})?>"
        r"([^<>\s]{10,})</",
    ),
)
