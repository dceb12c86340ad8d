"""Secrets: vendor formats as the vendors describe them, what is no secret, offsets, hostile texts."""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import json
import random
import re
import string
import sysconfig
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.redaction.secrets import SecretDetector
from extproc.text import Finding

HEX, LOWER = string.hexdigits[:16], string.ascii_lowercase + string.digits
UPPER, BASE62 = string.ascii_uppercase + string.digits, string.ascii_letters + string.digits
ALPHABETS = {
    "h": HEX, "H": HEX.upper(), "l": LOWER, "u": UPPER, "a": BASE62, "w": BASE62 + "_-", "d": string.digits,
    "b": BASE62 + "+/", "z": string.ascii_lowercase, "q": "abcdefghijklmnopqrstuvwxyz234567", "Q": "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567",
}  # fmt: skip

# What the vendor says a key looks like, and where. `{a36}`: 36 characters of an alphabet above; `{U}`: a UUID. The
# third column is the name under which a format that has nothing of its own is found; the others stand without a name.
FORMATS = (
    ("openai project", "sk-proj-{w74}T3BlbkFJ{w74}", "", "https://platform.openai.com/docs/api-reference/authentication"),
    ("openai service account", "sk-svcacct-{w58}T3BlbkFJ{w58}", "", "https://platform.openai.com/docs/api-reference/authentication"),
    ("openai legacy", "sk-{a20}T3BlbkFJ{a20}", "", "https://platform.openai.com/docs/api-reference/authentication"),
    ("anthropic", "sk-ant-api03-{w93}AA", "", "https://docs.anthropic.com/en/api/overview"),
    ("anthropic admin", "sk-ant-admin01-{w93}AA", "", "https://docs.anthropic.com/en/api/administration-api"),
    ("anthropic oauth", "sk-ant-oat01-{w93}AA", "", "https://docs.anthropic.com/en/docs/claude-code/sdk"),
    ("google api key", "AIzaSy{w33}", "", "https://cloud.google.com/docs/authentication/api-keys"),
    ("google oauth access", "ya29.a0{w160}", "", "https://cloud.google.com/docs/authentication/token-types"),
    ("google oauth secret", "GOCSPX-{w28}", "", "https://support.google.com/cloud/answer/6158849"),
    ("google refresh", "1//0{w98}", "", "https://developers.google.com/identity/protocols/oauth2"),
    ("groq", "gsk_{a52}", "", "https://console.groq.com/docs/quickstart"),
    ("xai", "xai-{a80}", "", "https://docs.x.ai/docs/tutorial"),
    ("hugging face", "hf_{a34}", "", "https://huggingface.co/docs/hub/security-tokens"),
    ("replicate", "r8_{a37}", "", "https://replicate.com/docs/topics/security/api-tokens"),
    ("perplexity", "pplx-{a48}", "", "https://docs.perplexity.ai/guides/api-key-management"),
    ("openrouter", "sk-or-v1-{h64}", "", "https://openrouter.ai/docs/api-reference/authentication"),
    ("fireworks", "fw_{a24}", "", "https://docs.fireworks.ai/getting-started/quickstart"),
    ("tavily", "tvly-dev-{a32}", "", "https://docs.tavily.com/documentation/quickstart"),
    ("deepseek", "sk-{h32}", "", "https://api-docs.deepseek.com/"),
    ("moonshot", "sk-{a48}", "", "https://platform.moonshot.ai/docs/introduction"),
    ("cerebras", "csk-{l48}", "", "https://inference-docs.cerebras.ai/quickstart"),
    ("nvidia", "nvapi-{w64}", "", "https://docs.nvidia.com/ngc/"),
    ("pinecone", "pcsk_{a6}_{a63}", "", "https://docs.pinecone.io/guides/projects/manage-api-keys"),
    ("langsmith", "lsv2_pt_{h32}_{h10}", "", "https://docs.smith.langchain.com/administration/"),
    ("langfuse", "sk-lf-{U}", "", "https://langfuse.com/docs/api"),
    ("elevenlabs", "sk_{h48}", "", "https://elevenlabs.io/docs/api-reference/authentication"),
    ("databricks", "dapi{h32}", "", "https://docs.databricks.com/aws/en/dev-tools/auth/pat"),
    ("llama cloud", "llx-{a48}", "", "https://docs.cloud.llamaindex.ai/api_key"),
    ("this gateway", "exk-{q10}-{a33}", "", "src/extproc/adapters/keys.py"),
    ("aws access key", "AKIA{Q16}", "", "https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html"),
    ("aws temporary key", "ASIA{Q16}", "", "https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html"),
    ("aws secret", "{b40}", "aws_secret_access_key", "https://docs.aws.amazon.com/IAM/latest/UserGuide/security-creds.html"),
    ("azure ad secret", "{a3}8Q~{a34}", "", "https://learn.microsoft.com/en-us/purview/sit-defn-azure-ad-client-secret"),
    ("azure storage", "{b76}+ASt{b6}==", "", "https://learn.microsoft.com/en-us/purview/sit-defn-azure-storage-account-key"),
    ("azure devops", "{a52}JQQJ99{a18}AZDO{a4}", "", "https://learn.microsoft.com/en-us/azure/devops/release-notes/"),
    ("digitalocean", "dop_v1_{h64}", "", "https://docs.digitalocean.com/reference/api/create-personal-access-token/"),
    ("alibaba", "LTAI{a20}", "", "https://www.alibabacloud.com/help/en/ram/user-guide/create-an-accesskey-pair"),
    ("netlify", "nfp_{a36}", "", "https://docs.netlify.com/api/get-started/"),
    ("vercel", "vcp_{a56}", "", "https://vercel.com/docs/rest-api"),
    ("heroku", "HRKU-AA{w58}", "", "https://devcenter.heroku.com/articles/platform-api-quickstart"),
    ("supabase", "sbp_{h40}", "", "https://supabase.com/docs/reference/api/introduction"),
    ("neon", "napi_{l64}", "", "https://neon.tech/docs/manage/api-keys"),
    ("planetscale", "pscale_tkn_{w43}", "", "https://planetscale.com/docs/concepts/service-tokens"),
    ("tailscale", "tskey-auth-{a11}CNTRL-{a32}", "", "https://tailscale.com/kb/1277/key-prefixes"),
    ("tailscale api", "tskey-api-{a11}CNTRL-{a32}", "", "https://tailscale.com/kb/1277/key-prefixes"),
    ("terraform", "{a14}.atlasv1.{a67}", "", "https://developer.hashicorp.com/terraform/cloud-docs/users-teams-organizations/api-tokens"),
    ("vault service", "hvs.{w92}", "", "https://developer.hashicorp.com/vault/docs/concepts/tokens"),
    ("vault batch", "hvb.{w150}", "", "https://developer.hashicorp.com/vault/docs/concepts/tokens"),
    ("pulumi", "pul-{h40}", "", "https://www.pulumi.com/docs/pulumi-cloud/access-management/access-tokens/"),
    ("doppler personal", "dp.pt.{a43}", "", "https://docs.doppler.com/reference/auth-token-formats"),
    ("doppler service", "dp.st.dev.{a43}", "", "https://docs.doppler.com/reference/auth-token-formats"),
    ("docker hub", "dckr_pat_{w27}", "", "https://docs.docker.com/security/for-developers/access-tokens/"),
    ("github fine-grained", "github_pat_{a22}_{a59}", "", "https://docs.github.com/en/authentication/keeping-your-account-and-data-secure"),
    ("gitlab", "glpat-{w20}", "", "https://docs.gitlab.com/security/tokens/"),
    ("gitlab deploy", "gldt-{w20}", "", "https://docs.gitlab.com/security/tokens/"),
    ("gitlab runner", "glrt-{w20}", "", "https://docs.gitlab.com/security/tokens/"),
    ("bitbucket app password", "ATBB{a32}", "", "https://support.atlassian.com/bitbucket-cloud/docs/using-app-passwords/"),
    ("atlassian", "ATATT3xFfGF0{w176}={H8}", "", "https://support.atlassian.com/atlassian-account/docs/manage-api-tokens-for-your-atlassian-account/"),
    ("pypi", "pypi-AgEIcHlwaS5vcmc{w150}", "", "https://packaging.python.org/en/latest/specifications/pypirc/"),
    ("rubygems", "rubygems_{h48}", "", "https://guides.rubygems.org/api-key-scopes/"),
    ("nuget", "oy2{l43}", "", "https://learn.microsoft.com/en-us/nuget/nuget-org/scoped-api-keys"),
    ("circleci", "CCIPAT_{a22}_{h40}", "", "https://circleci.com/docs/managing-api-tokens/"),
    ("buildkite", "bkua_{h40}", "", "https://buildkite.com/docs/apis/managing-api-tokens"),
    ("sonarqube project", "sqp_{h40}", "", "https://docs.sonarsource.com/sonarqube-server/user-guide/managing-tokens"),
    ("sonarqube user", "squ_{h40}", "", "https://docs.sonarsource.com/sonarqube-server/user-guide/managing-tokens"),
    ("postman", "PMAK-{h24}-{h34}", "", "https://learning.postman.com/docs/developer/postman-api/authentication/"),
    ("prefect", "pnu_{a36}", "", "https://docs.prefect.io/v3/how-to-guides/cloud/manage-users/api-keys"),
    ("atlas service account", "mdb_sa_sk_{w40}", "", "https://www.mongodb.com/docs/atlas/api/service-accounts-overview/"),
    ("astra", "AstraCS:{a24}:{h64}", "", "https://docs.datastax.com/en/astra-db-serverless/"),
    ("grafana", "glsa_{a32}_{h8}", "", "https://grafana.com/docs/grafana/latest/administration/service-accounts/"),
    ("grafana cloud", "glc_eyJ{b120}==", "", "https://grafana.com/docs/grafana-cloud/"),
    ("new relic user", "NRAK-{u27}", "", "https://docs.newrelic.com/docs/apis/intro-apis/new-relic-api-keys/"),
    ("new relic insert", "NRII-{w32}", "", "https://docs.newrelic.com/docs/apis/intro-apis/new-relic-api-keys/"),
    ("new relic licence", "{h36}NRAL", "", "https://docs.newrelic.com/docs/apis/intro-apis/new-relic-api-keys/"),
    ("sentry organisation", "sntrys_eyJpYXQiOj{b100}_{b43}", "", "https://docs.sentry.io/account/auth-tokens/"),
    ("sentry user", "sntryu_{h64}", "", "https://docs.sentry.io/account/auth-tokens/"),
    ("dynatrace", "dt0c01.{u24}.{u64}", "", "https://docs.dynatrace.com/docs/manage/identity-access-management/access-tokens-and-oauth-clients/access-tokens"),
    ("honeycomb", "hcaik_01{l56}", "", "https://docs.honeycomb.io/configure/environments/manage-api-keys/"),
    ("posthog personal", "phx_{a43}", "", "https://posthog.com/docs/api"),
    ("airtable", "pat{a14}.{h64}", "", "https://airtable.com/developers/web/guides/personal-access-tokens"),
    ("contentful", "CFPAT-{w43}", "", "https://www.contentful.com/developers/docs/references/authentication/"),
    ("mapbox secret", "sk.eyJ{a80}.{w22}", "", "https://docs.mapbox.com/help/getting-started/access-tokens/"),
    ("slack bot", "xoxb-{d12}-{d13}-{a24}", "", "https://docs.slack.dev/authentication/tokens"),
    ("slack user", "xoxp-{d12}-{d12}-{d13}-{h32}", "", "https://docs.slack.dev/authentication/tokens"),
    ("slack app", "xapp-1-A{u10}-{d13}-{h64}", "", "https://docs.slack.dev/authentication/tokens"),
    ("slack webhook", "https://hooks.slack.com/services/T{u10}/B{u10}/{a24}", "", "https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks"),
    ("discord bot", "M{a25}.{w6}.{w38}", "", "https://discord.com/developers/docs/reference"),
    ("discord webhook", "https://discord.com/api/webhooks/{d18}/{w68}", "", "https://discord.com/developers/docs/resources/webhook"),
    ("telegram bot", "{d10}:AA{w33}", "", "https://core.telegram.org/bots/api"),
    ("twilio", "SK{h32}", "", "https://www.twilio.com/docs/iam/api-keys"),
    ("sendgrid", "SG.{w22}.{w43}", "", "https://www.twilio.com/docs/sendgrid/ui/account-and-settings/api-keys"),
    ("mailgun", "key-{h32}", "", "https://documentation.mailgun.com/"),
    ("mailgun new", "{h32}-{h8}-{h8}", "", "https://documentation.mailgun.com/"),
    ("mailchimp", "{h32}-us14", "", "https://mailchimp.com/developer/marketing/guides/quick-start/"),
    ("brevo", "xkeysib-{h64}-{a16}", "", "https://developers.brevo.com/docs/getting-started"),
    ("resend", "re_{a8}_{a24}", "", "https://resend.com/docs/dashboard/api-keys/introduction"),
    ("notion", "ntn_{d11}{a35}", "", "https://developers.notion.com/docs/authorization"),
    ("notion old", "secret_{a43}", "", "https://developers.notion.com/docs/authorization"),
    ("linear", "lin_api_{a40}", "", "https://linear.app/developers/graphql"),
    ("figma", "figd_{w40}", "", "https://www.figma.com/developers/api"),
    ("hubspot", "pat-na1-{U}", "", "https://developers.hubspot.com/docs/guides/apps/private-apps/overview"),
    ("stripe live", "sk_live_{a24}", "", "https://docs.stripe.com/keys"),
    ("stripe restricted", "rk_live_{a99}", "", "https://docs.stripe.com/keys"),
    ("stripe webhook", "whsec_{a32}", "", "https://docs.stripe.com/webhooks"),
    ("square", "sq0atp-{w22}", "", "https://developer.squareup.com/docs/build-basics/access-tokens"),
    ("square access", "EAAAl{w59}", "", "https://developer.squareup.com/docs/build-basics/access-tokens"),
    ("braintree", "access_token$production${l16}${h32}", "", "https://developer.paypal.com/braintree/docs/guides/extend/oauth/access-tokens"),
    ("shopify", "shpat_{h32}", "", "https://shopify.dev/docs/apps/build/authentication-authorization/access-tokens"),
    ("plaid", "access-production-{U}", "", "https://plaid.com/docs/api/tokens/"),
    ("razorpay", "rzp_live_{a14}", "", "https://razorpay.com/docs/payments/dashboard/account-settings/api-keys/"),
    ("dropbox", "sl.{w136}", "", "https://developers.dropbox.com/oauth-guide"),
    ("facebook", "EAAC{a180}", "", "https://developers.facebook.com/docs/facebook-login/guides/access-tokens"),
    ("datadog", "{h32}", "datadog_api_key", "https://docs.datadoghq.com/account_management/api-app-keys/"),
    ("algolia", "{h32}", "algolia_api_key", "https://www.algolia.com/doc/guides/security/api-keys/"),
    ("cohere", "{a40}", "cohere_api_key", "https://docs.cohere.com/docs/rate-limits"),
    ("mistral", "{a32}", "mistral_api_key", "https://docs.mistral.ai/getting-started/quickstart/"),
    ("okta", "00{w40}", "okta_token", "https://developer.okta.com/docs/guides/create-an-api-token/main/"),
    ("twilio auth token", "{h32}", "twilio_auth_token", "https://www.twilio.com/docs/iam/access-tokens"),
)  # fmt: skip


class Memory:
    """A database store for one run of the tests."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        return self.kept.get(key)

    def put(self, key: str, data: bytes) -> None:
        self.kept[key] = data


@functools.cache
def store() -> Memory:
    return Memory()


@functools.cache
def detector() -> SecretDetector:
    """One for all tests of this process: building it takes seconds."""
    return SecretDetector(store())


def instance(template: str, seed: str) -> str:
    """A key as the template describes it; the same for the same seed."""
    rng = random.Random(seed)

    def fill(match: re.Match[str]) -> str:
        if match[1] == "U":
            return "-".join("".join(rng.choices(HEX, k=size)) for size in (8, 4, 4, 4, 12))
        return "".join(rng.choices(ALPHABETS[match[1]], k=int(match[2])))

    return re.sub(r"\{([A-Za-z])(\d*)\}", fill, template)


def surroundings(key: str, name: str) -> tuple[str, str, str]:
    """The key in prose, in JSON and in a shell command; under a name only where the format needs one."""
    prose = f"the {name.replace('_', ' ')} is: {key}" if name else f"Please deploy with {key}"
    return (
        f"{prose}, and let me know.\nThanks!",
        json.dumps({"region": "eu-west-1", name or "entry": key, "retries": 3}),
        f"cd /srv && export {name.upper() or 'ENTRY'}={key} && make run",
    )


def covers(found: list[Finding], text: str, key: str) -> bool:
    """Whether one finding covers the whole key, and next to nothing else."""
    start = text.index(key)
    return any(
        one.start <= start and one.end >= start + len(key) and one.end - one.start <= len(key) + 4 for one in found
    )


def values(text: str) -> list[tuple[str, str]]:
    return [(one.kind, text[one.start : one.end]) for one in detector().scan(text)]


def test_formats_of_vendors_are_found():
    """At least 95 % of the formats, in each of three surroundings and three instances each; there are 80 and more."""
    missed = [
        (vendor, place)
        for vendor, template, name, _ in FORMATS
        for number in range(3)
        for key in (instance(template, f"{vendor}{number}"),)
        for place, text in enumerate(surroundings(key, name))
        if not covers(detector().scan(text), text, key)
    ]

    assert len({vendor for vendor, *_ in FORMATS}) == len(FORMATS) >= 80
    assert len({vendor for vendor, _ in missed}) <= 0.05 * len(FORMATS), missed
    assert all(source for *_, source in FORMATS)


def clean_texts() -> list[tuple[str, str]]:
    """Code and documents of the installed packages, in an order that a digest of their names decides; no test data."""
    root = Path(sysconfig.get_path("purelib"))
    files = [
        path
        for suffix in ("py", "md", "rst", "txt")
        for path in root.rglob(f"*.{suffix}")
        if not re.search(r"test|fixture|mock|snapshot|conftest", str(path.relative_to(root)).lower())
    ]
    files.sort(key=lambda path: hashlib.sha256(path.relative_to(root).as_posix().encode()).digest())
    chosen, size = [], 0
    for path in files:
        text = path.read_text("utf-8", "replace")[:40_000]
        chosen.append((path.relative_to(root).as_posix(), text))
        size += len(text)
        if size >= 800_000:
            break
    return chosen


def test_clean_text_has_next_to_no_hits():
    """At most ten in 770,000 characters of code and documents."""
    texts = clean_texts()
    hits = [
        (name, one.rule, text[max(0, one.start - 30) : one.end])
        for name, text in texts
        for one in detector().scan(text)
    ]
    print(*hits, sep="\n")

    assert sum(len(text) for _, text in texts) >= 770_000
    assert len(hits) <= 10


def github_token(seed: str, prefix: str = "ghp_") -> str:
    body = instance("{a30}", seed)
    number, check = zlib.crc32(body.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        check = (string.digits + string.ascii_uppercase + string.ascii_lowercase)[digit] + check
    return prefix + body + check


def test_checksum_makes_certain():
    """A GitHub or npm token whose checksum holds is certain; one with a wrong one is still found."""
    good, bad = github_token("1"), github_token("1")[:-6] + "000000"

    assert [(1.0, "github-token")] == [(one.score, one.rule) for one in detector().scan(f"token {good} here")]
    assert [1.0] == [one.score for one in detector().scan(github_token("2", "npm_"))]
    assert [0.95] == [one.score for one in detector().scan(f"token {bad} here")]


def pem(kind: str, *, end: bool = True, newline: str = "\n") -> str:
    body = base64.b64encode(random.Random(kind).randbytes(1200)).decode()
    lines = [f"-----BEGIN {kind}-----", *(body[at : at + 64] for at in range(0, len(body), 64))]
    return newline.join([*lines, f"-----END {kind}-----"] if end else lines)


@pytest.mark.parametrize(
    "kind", ["RSA PRIVATE KEY", "PRIVATE KEY", "OPENSSH PRIVATE KEY", "EC PRIVATE KEY", "PGP PRIVATE KEY BLOCK"]
)
@pytest.mark.parametrize("newline", ["\n", "\\n", "\r\n", " "])
def test_private_keys_are_found_whole(kind: str, newline: str):
    """The whole block with its markers, whatever breaks its lines; also in JSON that was not decoded."""
    block = pem(kind, newline=newline)

    assert [("PRIVATE_KEY", block)] == values(f'{{"key": "{block}", "n": 1}}')


def test_private_key_cut_off():
    """A block whose end is missing is found as far as it goes."""
    block = pem("RSA PRIVATE KEY", end=False)

    assert [("PRIVATE_KEY", block)] == values(f"see\n{block}\nand so on")


def test_putty_age_and_wif_keys():
    """PuTTY's files, age's keys, and Bitcoin keys whose checksum holds; one digit off, they are no keys."""
    lines = "\n".join(base64.b64encode(random.Random(1).randbytes(48)).decode() for _ in range(4))
    putty = f"PuTTY-User-Key-File-2: ssh-rsa\nEncryption: none\nPublic-Lines: 4\n{lines}\nPrivate-Lines: 1\n{lines}\nPrivate-MAC: {instance('{h40}', 'm')}"
    age = "AGE-SECRET-" + "KEY-1" + "".join(random.Random(2).choices("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", k=58))
    payload = b"\x80" + random.Random(3).randbytes(32) + b"\x01"
    payload += hashlib.sha256(hashlib.sha256(payload).digest()).digest()[:4]
    number, wif = int.from_bytes(payload, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        wif = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"[digit] + wif

    assert [("PRIVATE_KEY", putty)] == values(f"{putty}\n")
    assert [("PRIVATE_KEY", age)] == values(f"key: {age}.")
    assert [("PRIVATE_KEY", wif)] == values(f"pay with {wif}, please")
    assert [] == values(f"pay with {wif[:-1] + ('a' if wif[-1] != 'a' else 'b')}, please")


def jwt(header: bytes = b'{"alg":"HS256","typ":"JWT"}') -> str:
    parts = (header, b'{"sub":"1234","iat":1516239022}', random.Random(4).randbytes(32))
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def test_jwts():
    """A token with a header that decodes; what only begins like one is none."""
    assert [("JWT", jwt())] == values(f"Authorization: Bearer {jwt()}")
    assert [("JWT", jwt())] == values(f'{{\\"id\\":\\"{jwt()}\\"}}')
    assert [] == values(f"see {jwt(b'{{not json at all..')} there")


@pytest.mark.parametrize(
    "uri",
    [
        "postgres://app:{p}@db.internal:5432/prod?sslmode=require",
        "postgresql+asyncpg://app:{p}@10.0.0.4/prod",
        "mongodb+srv://svc:{p}@cluster0.ab1cd.mongodb.net/app?retryWrites=true",
        "mongodb://u:{p}@h1:27017,h2:27017/db",
        "redis://:{p}@cache.internal:6379/0",
        "amqps://guest1:{p}@mq.internal//vhost",
        "mysql://root:{p}@localhost/db",
    ],
)
@pytest.mark.parametrize("password", ["s3cr3t", "p@ss/w0rd", "correct-horse", "Zx9%21aa"])
def test_connection_strings_are_found_whole(uri: str, password: str):
    """The whole of it: its user, host and database say where the password fits, and a raw `@` cannot cut it short."""
    whole = uri.format(p=password)

    assert [("CONNECTION_STRING", whole)] == values(f"DSN is {whole}.")
    assert [("CONNECTION_STRING", whole)] == values(json.dumps({"url": whole}))


def test_password_of_a_web_address():
    """Of an address of the web only the password: the address itself is what the text is about."""
    assert [("PASSWORD", "hunter2x")] == values("curl https://bob:hunter2x@example.org/x.git")
    assert [] == values("open https://user:password@host/ or http://localhost:8080/a@b")
    assert [] == values("postgres://user:password@localhost/db and redis://:${REDIS_PASSWORD}@cache:6379")


@pytest.mark.parametrize(
    "text",
    [
        "DB_PASSWORD={p}", "export DB_PASSWORD='{p}'", "password: {p}", 'password = "{p}"', '{{"password": "{p}"}}',
        '{{\\"db_password\\": \\"{p}\\"}}', "spring.datasource.password={p}", "mysql -u root -p{p} shop", "--password {p}",
        "--db-password={p}", "Server=db;User Id=sa;Password={p};", "the password is {p}", "my password for the vpn is {p}",
        "<password>{p}</password>", "CREATE USER x IDENTIFIED BY '{p}'", "curl -u admin:{p} https://x.org",
        "- name: DB_PASSWORD\n  value: {p}", '{{"name": "DB_PASSWORD", "value": "{p}"}}', "DB_PASSWORD_PROD={p}", "'password' => '{p}'",
        '$password = "{p}"', "password={p}\nuser=bob", "  - POSTGRES_PASSWORD={p}", "passwd = '{p}'", "Passwort: {p}",
        "machine x.org login bob password {p}", "passphrase: {p}", "pwd={p}", "PGPASSWORD={p} psql", 'password: str = "{p}"',
    ],
)  # fmt: skip
@pytest.mark.parametrize("password", ["Tr0ub4dor", "hunter22", "Summer2024!", "k9#mQ2$vLp", "x7Kd9fQz2LmP4rTv"])
def test_passwords_in_their_surroundings(text: str, password: str):
    """What is assigned to a name for a password, in the shapes of shells, YAML, JSON, code, SQL, prose."""
    assert [("PASSWORD", password)] == values(text.format(p=password))


@pytest.mark.parametrize(
    "text",
    [
        "API_KEY={p}", 'api_key: "{p}"', '{{"apiKey": "{p}"}}', "x-api-key: {p}", "client_secret={p}", "ACME_TOKEN={p}",
        "--api-key {p}", "--token={p}", "?access_token={p}", "SECRET_KEY = '{p}'", "my api key is {p}", "<apiKey>{p}</apiKey>",
        "auth_token => '{p}'", "webhook secret: {p}", "STRIPE_SECRET: {p}", "api_key: str = '{p}'", "'signing_key': b'{p}'",
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [16, 32, 40, 64, 200, 700])
def test_tokens_in_their_surroundings(text: str, size: int):
    """What is assigned to a name for a key, to its very end, however long it is."""
    token = instance(f"{{a{size}}}", text)

    assert [("API_KEY", token)] == values(text.format(p=token))


@pytest.mark.parametrize("scheme", ["Bearer {}", "bearer {}", "Token {}", "Basic {}", "ApiKey {}", "{}"])
def test_authorization_headers(scheme: str):
    """Any scheme, as a header, in code, in a shell."""
    token = instance("{a40}", scheme)
    value = scheme.format(token)

    assert [("BEARER_TOKEN", token)] == values(f"Authorization: {value}\nAccept: */*")
    assert [("BEARER_TOKEN", token)] == values(f"curl -H 'Authorization: {value}' https://x.org")
    assert [("BEARER_TOKEN", token)] == values(f'headers = {{"Authorization": "{value}"}}')


@pytest.mark.parametrize(
    "text",
    [
        "password=", "password: ********", "api_key=your-api-key", "API_KEY=${API_KEY}", "token: <token>", 'api_key: "xxxxxxxxxxxxxxxx"',
        "password = get_password()", "password: str | None = None", "token = self.tokens[0]", "secret = os.environ['SECRET_42']",
        "api_key=example-key-1", "password must have 8 characters", "the token is valid for 24 hours", "token: string", "password: changeme",
        "next_page_token = response_2", "auth = HTTPBasicAuth(user, password1)", "Authorization: Bearer <token>", "Authorization: Bearer $TOKEN",
        "api_key={{ vault_api_key_1 }}", "secretName: my-app-secret-v2", "password: %(password)s", "sk" + "-learn-contrib-2024-edition", "ask-me-anything-2024",
        "key: value", "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A\n-----END PUBLIC KEY-----", "sha256:" + "0f" * 32,
        "commit 3f786850e387550fdab836ed7e6dc881de23001b", "session_token_ttl_seconds=86400", "client_secret_basic", "token_type=bearer",
    ],
)  # fmt: skip
def test_what_is_no_secret(text: str):
    """Stand-ins, variables, calls, types, words, hashes, public keys."""
    assert [] == values(text)


def test_short_basic_credentials():
    """What is too short and too plain for a token decodes to a user and a password."""
    value = base64.b64encode(b"user:pass").decode()

    assert [("BEARER_TOKEN", value)] == values(f"Authorization: Basic {value}")
    assert [] == values("Basic understanding of HTTP is enough")


def test_value_of_a_value():
    """What looked like a value may be the next name: the search goes on inside of it."""
    token = instance("{a32}", "inner")

    assert [("API_KEY", token)] == values(f"token: api_key: {token}")


@pytest.mark.parametrize("before", ["é", "日本", "😀", "\ud800", "\u0301", "\uff41"])
def test_offsets_are_characters(before: str):
    """Before, between and after characters of any width, and half of a surrogate pair."""
    token = github_token("3")
    text = f"{before}{token}{before} {before} password={'pa' + before + 'ss1word'}{before}"

    assert [("API_KEY", token), ("PASSWORD", f"pa{before}ss1word{before}")] == values(text)


@settings(max_examples=60, deadline=None)
@given(before=st.text(max_size=80), after=st.text(max_size=80), number=st.integers(0, 10**6))
def test_key_is_found_in_any_text(before: str, after: str, number: int):
    """A key that stands by itself is found whatever else the text is; nothing lies outside of the text."""
    token = github_token(str(number))
    text = f"{before} {token} {after}"
    found = detector().scan(text)

    assert any(one.start <= len(before) + 1 and one.end >= len(before) + 1 + len(token) for one in found)
    assert all(0 <= one.start < one.end <= len(text) for one in found)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["password=", "token: ", "sk-", "eyJ", ".", "AKIA", " ", "\n", "é", "a1B2c3D4e5F6", '"', "://u:", "@h"]
        ),
        max_size=60,
    )
)
def test_findings_do_not_nest(pieces: list[str]):
    """No finding lies within another; they come by start; twice the same text gives the same."""
    text = "".join(pieces)
    found = detector().scan(text)

    assert found == sorted(found, key=lambda one: one.start)
    assert all(first.end < second.end for first, second in itertools.pairwise(found))
    assert found == detector().scan(text)


def test_kinds_and_store():
    """Only the kinds asked for; a second detector takes all from the store and finds the same."""
    text = f"{github_token('4')} password=Tr0ub4dor"
    detector()
    kept = dict(store().kept)
    only = SecretDetector(store(), frozenset({"PASSWORD"}))

    assert ["PASSWORD"] == [one.kind for one in only.scan(text)]
    assert ["API_KEY", "PASSWORD"] == [one.kind for one in detector().scan(text)]
    assert kept == store().kept
    assert len(kept) == 2
    with pytest.raises(ValueError, match="EMAIL_ADDRESS"):
        SecretDetector(store(), frozenset({"EMAIL_ADDRESS"}))


class TooLongError(Exception):
    """Raised by the checks below."""


def stop_after(calls: int) -> Callable[[], None]:
    left = iter(range(calls))

    def check() -> None:
        if next(left, None) is None:
            raise TooLongError

    return check


def test_check_is_called_between_matches():
    """A text full of candidates gives the budget its say after each of them."""
    text = "password=abcdef " * 500

    with pytest.raises(TooLongError):
        detector().scan(text, stop_after(100))
    assert [] == detector().scan("nothing here", stop_after(0))
