"""
Settings: one TOML file, overridden by the environment, checked whole before anything is contacted.

The file is the one given by ``--config``, else ``$HARVESTER_CONFIG``, else ``./harvester.toml``, else
``harvester.toml`` in the user's configuration folder. ``HARVESTER_STORE__URL`` overrides ``url`` of ``[store]``, and so
on for every key. An unknown key at any depth is an error that names file, line and key.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import time
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from harvester.catalog import pack
from harvester.connector import URL, Connector, Duration, parse_duration
from harvester.derive import SOURCE, Operation, Part, Rule, UnderivableError
from harvester.errors import ConfigError
from harvester.readings import Better, Metric, Subject, labels_of
from harvester.registry import connector, connector_names

FILE_NAME = "harvester.toml"
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
ADDRESS = r"^[^\s@]+@[^\s@]+$"
REPOSITORY = r"^[^/\s]+/[^/\s]+$"


class _SourceError(ValueError):
    def __init__(self, source: str) -> None:
        super().__init__(f'needs connector = "...", one of {", ".join(connector_names())}')
        self.source = source


class Section(BaseModel):
    """A table of the file; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def data_folder() -> Path:
    """Return the folder for the store where none is configured."""
    from platformdirs import user_data_path

    return user_data_path("harvester")


class StoreSection(Section):
    """``[store]``: where the readings are kept."""

    url: str = Field(default_factory=lambda: f"sqlite:///{data_folder() / 'harvester.db'}")
    keep: Duration = Field(default_factory=lambda: parse_duration("400d"))


def _zone(value: object) -> object:
    if isinstance(value, str) and value not in available_timezones():
        near = difflib.get_close_matches(value, available_timezones(), 1)
        raise ValueError(f"{value!r} is not a time zone" + (f"; did you mean {near[0]}?" if near else ""))
    return value


class DigestSection(Section):
    """``[digest]``: when the weekly digest is composed, in the reader's zone."""

    zone: Annotated[str, BeforeValidator(_zone)] = "UTC"
    weekday: Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"] = "monday"
    at: time = time(8, 0)

    @property
    def zoneinfo(self) -> ZoneInfo:
        """The reader's zone."""
        return ZoneInfo(self.zone)


class MailSection(Section):
    """``[mail]``: how the digest is sent. Without it the digest is shown by ``harvest digest`` only."""

    host: str
    port: int = Field(default=587, ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: str | None = None
    password_env: str | None = None
    password_file: Path | None = None
    sender: str = Field(pattern=ADDRESS)
    recipients: tuple[Annotated[str, Field(pattern=ADDRESS)], ...] = Field(min_length=1)
    timeout: Duration = Field(default_factory=lambda: parse_duration("30s"))

    def password(self) -> SecretStr | None:
        """
        Return the password, or None where none is named.

        Raises:
            ConfigError: if it is named and cannot be had.
        """
        if self.password_env:
            found = os.environ.get(self.password_env)
            if not found:
                raise ConfigError(
                    "read password of", "[mail]", f"the environment variable {self.password_env} is not set",
                    hint=f"export {self.password_env}=...",
                )
            return SecretStr(found)
        if self.password_file:
            try:
                if self.password_file.stat().st_mode & 0o077:
                    raise ConfigError(
                        "read password of", "[mail]", f"{self.password_file} can be read by others",
                        hint=f"chmod 600 {self.password_file}",
                    )
                return SecretStr(self.password_file.read_text().strip())
            except OSError as e:
                raise ConfigError("read password of", "[mail]", f"{self.password_file}: {e.strerror}") from e
        return None


class SubjectSection(Section):
    """``[subjects.NAME]``: a thing the engineer works on, by what each source calls it."""

    prometheus: dict[str, str] = Field(default_factory=dict)
    pagerduty_service: str = ""
    repositories: tuple[Annotated[str, Field(pattern=REPOSITORY)], ...] = ()
    database: str = ""

    def subject(self, name: str) -> Subject:
        """Return it in the vocabulary's form."""
        return Subject(
            name, labels_of(self.prometheus), self.pagerduty_service, self.repositories, self.database
        )


_DERIVED_KEYS: Mapping[Operation, tuple[str, ...]] = {
    Operation.RATIO: ("numerator", "denominator"),
    Operation.PRODUCT: ("of", "times"),
    Operation.SHARE_UNDER: ("of", "bound"),
    Operation.ONSETS: ("of", "above", "below", "lasting"),
    Operation.FOLLOWED_BY: ("of", "then", "within"),
}
"""The keys of each operation, all needed; of ``above`` and ``below`` one, ``lasting`` if wanted."""


class DerivedSection(Section):
    """
    ``[derived.NAME]``: a metric made of one or two stored ones, worked out whenever it is read.

    A metric is named as ``[SOURCE/]METRIC [AMOUNT]``: ``statements total`` is the sum of its durations.
    """

    operation: Operation
    numerator: str | None = None
    denominator: str | None = None
    of: str | None = None
    times: float | str | None = None
    bound: float | None = Field(default=None, allow_inf_nan=False)
    above: float | None = Field(default=None, allow_inf_nan=False)
    below: float | None = Field(default=None, allow_inf_nan=False)
    lasting: Duration | None = None
    then: str | None = None
    within: Duration | None = None
    by: tuple[str, ...] = ()
    unit: str = ""
    better: Better | None = None
    statistics: tuple[str, ...] = ()
    family: str = ""
    help: str = ""

    @model_validator(mode="after")
    def _fits_its_operation(self) -> DerivedSection:
        known = _DERIVED_KEYS[self.operation]
        every = dict.fromkeys(key for keys in _DERIVED_KEYS.values() for key in keys)
        given = [key for key in every if getattr(self, key) is not None]
        foreign = [key for key in given if key not in known]
        missing = [key for key in known if key not in given and key not in ("above", "below", "lasting")]
        if self.operation is Operation.ONSETS and (self.above is None) == (self.below is None):
            missing.append("either above or below")
        if foreign or missing:
            said = f"has no {', '.join(foreign)}" if foreign else f"needs {' and '.join(missing)}"
            raise ValueError(f"a derived metric of operation {self.operation} {said}; it takes {', '.join(known)}")
        try:
            self.rule("any")
        except UnderivableError as e:
            raise ValueError(f"{e.cause}; {e.hint}") from e
        return self

    def rule(self, name: str) -> Rule:
        """Return it in the form that is worked with."""
        named = (self.numerator, self.denominator, self.of, self.times, self.then)
        lasting = self.within or self.lasting
        return Rule(
            name=name,
            operation=self.operation,
            parts=tuple(Part.parse(one) for one in named if isinstance(one, str)),
            by=self.by,
            factor=self.times if isinstance(self.times, float) else None,
            bound=self.bound,
            threshold=self.below if self.above is None else self.above,
            falling=self.below is not None,
            seconds=0 if lasting is None else round(lasting.total_seconds()),
            unit=self.unit,
            better=self.better,
            statistics=self.statistics,
            family=self.family,
        )


class _File(PydanticBaseSettingsSource):
    """The TOML file as a source of settings; what the environment says wins over it."""

    def __init__(self, settings_class: type[BaseSettings], content: Mapping[str, Any]) -> None:
        super().__init__(settings_class)
        self.content = dict(content)

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002  the base class fixes it
        return self.content.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self.content


class Settings(BaseSettings):
    """
    Everything that can be set.

    Attributes:
        store: Where readings are kept.
        digest: When the digest is composed.
        mail: How it is sent, or None.
        subjects: The things the engineer works on.
        sources: Options of each configured source, as they stand in the file; ``connectors`` has them checked.
        derived: Metrics made of others, as they stand in the file; ``rules`` has those of the packs too.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="HARVESTER_", env_nested_delimiter="__"
    )

    store: StoreSection = Field(default_factory=StoreSection)
    digest: DigestSection = Field(default_factory=DigestSection)
    mail: MailSection | None = None
    subjects: dict[Annotated[str, Field(pattern=NAME)], SubjectSection] = Field(default_factory=dict)
    sources: dict[Annotated[str, Field(pattern=NAME)], dict[str, Any]] = Field(default_factory=dict)
    derived: dict[Annotated[str, Field(pattern=NAME)], DerivedSection] = Field(default_factory=dict)

    _path: Path | None = PrivateAttr(default=None)
    _text: str = PrivateAttr(default="")

    @field_validator("sources")
    @classmethod
    def _name_a_connector(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, options in value.items():
            if name == SOURCE:
                raise ValueError(f"no source may be called {SOURCE}: metrics made of others are shown under that name")
            if not isinstance(options.get("connector"), str):
                raise _SourceError(name)
        return value

    @property
    def path(self) -> Path | None:
        """The file they were read from, or None."""
        return self._path

    @cached_property
    def subject_list(self) -> tuple[Subject, ...]:
        """The subjects, in the order of the file."""
        return tuple(section.subject(name) for name, section in self.subjects.items())

    @cached_property
    def connectors(self) -> Mapping[str, Connector]:
        """
        The configured sources by name, each checked by its connector; nothing is contacted.

        Raises:
            ConfigError: naming file, line and key.
        """
        return {name: self._connector(name, dict(options)) for name, options in self.sources.items()}

    @cached_property
    def rules(self) -> Mapping[str, Rule]:
        """
        How each derived metric is made, by name: those of the file, and those of its packs that can be made.

        Raises:
            ConfigError: if one cannot be made, naming file, line and key.
        """
        return {name: rule for name, (rule, _) in self._derived.items()}

    @cached_property
    def metrics(self) -> Mapping[str, Metric]:
        """Every metric that is collected or derived, by name; the first source's where two yield one name."""
        found: dict[str, Metric] = {}
        for one in self.connectors.values():
            for metric in one.definitions():
                found.setdefault(metric.name, metric)
        return found | {name: metric for name, (_, metric) in self._derived.items()}

    @cached_property
    def _derived(self) -> Mapping[str, tuple[Rule, Metric]]:
        sections = {**self._packed_rules(), **self.derived}
        if not sections:
            return {}
        collected = {name: {one.name: one for one in each.definitions()} for name, each in self.connectors.items()}
        names = list(dict.fromkeys(name for metrics in collected.values() for name in metrics))
        found = {}
        for name, section in sections.items():
            rule = section.rule(name)
            parts = [_collected(one, collected) for one in rule.parts]
            try:
                if name in names:
                    raise UnderivableError("a source yields a metric of that name", "choose another name")
                of = [metric for metric in parts if metric is not None]
                if len(of) < len(parts):
                    missing = rule.parts[parts.index(None)]
                    near = difflib.get_close_matches(missing.metric, names, 2)
                    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(names[:12])}"
                    raise UnderivableError(f"no source yields a metric {missing.metric}", hint)
                found[name] = rule, rule.metric(*of)
            except UnderivableError as e:
                if name not in self.derived:
                    continue  # the pack serves those who collect less, or otherwise, too
                raise ConfigError("derive", self._where(("derived", name)), e.cause, hint=e.hint) from e
        return found

    def _packed_rules(self) -> Mapping[str, DerivedSection]:
        packs = dict.fromkeys(one for options in self.sources.values() for one in options.get("packs", ()))
        found: dict[str, DerivedSection] = {}
        for name in packs:
            for derived, table in pack(name).get("derived", {}).items():
                found.setdefault(derived, DerivedSection.model_validate(table))
        return found

    def _connector(self, name: str, options: dict[str, Any]) -> Connector:
        place = ("sources", name)
        try:
            kind = connector(options.pop("connector"))
            for own in ("source", "subjects"):
                if own in options:
                    raise ConfigError("find", own, "is given by harvester itself", hint="remove the key")
            if "metrics" in kind.model_fields:
                packs = options.pop("packs", [])
                if isinstance(packs, str) or not all(isinstance(one, str) for one in packs):
                    raise ConfigError("read", "packs", "must be a list of names", hint='packs = ["http"]')
                packed = [metric for one in packs for metric in pack(one)["metrics"]]
                own_metrics = options.get("metrics", [])
                named = {metric.get("name") for metric in own_metrics if isinstance(metric, dict)}
                options["metrics"] = [*own_metrics, *(metric for metric in packed if metric["name"] not in named)]
            return kind(source=name, subjects=self.subject_list, **options)
        except ConfigError as e:
            raise ConfigError(e.operation, f"{e.target} in {self._where(place)}", e.cause, hint=e.hint) from e
        except ValidationError as e:
            raise _config_error(e, self._path, self._text, place, kind) from None

    def _where(self, place: Sequence[str]) -> str:
        line = line_of(self._text, place)
        return f"{self._path}{f', line {line}' if line else ''}, {'.'.join(place)}" if self._path else ".".join(place)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  the base class fixes the names
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        content = getattr(init_settings, "init_kwargs", {})
        return env_settings, _File(settings_cls, content)


def find(given: Path | None = None, environ: Mapping[str, str] | None = None) -> Path | None:
    """
    Return the file to read, or None where there is none.

    Raises:
        ConfigError: if a file was named and is not there.
    """
    from platformdirs import user_config_path

    environ = os.environ if environ is None else environ
    named = environ.get("HARVESTER_CONFIG")
    for path, said in ((given, "--config"), (Path(named) if named else None, "$HARVESTER_CONFIG")):
        if path is not None and not path.is_file():
            raise ConfigError(
                "read settings", str(path), f"the file named by {said} is not there", hint="harvest init writes one"
            )
        if path is not None:
            return path
    usual = (Path(FILE_NAME), user_config_path("harvester") / FILE_NAME)
    return next((path for path in usual if path.is_file()), None)


def load(given: Path | None = None) -> Settings:
    """
    Read and check the settings; every source's options included.

    Raises:
        ConfigError: with file, line and key of the first thing that is wrong.
    """
    path = find(given)
    text = ""
    content: dict[str, Any] = {}
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8")
            content = tomllib.loads(text)
        except OSError as e:
            raise ConfigError("read settings", str(path), e.strerror or "cannot be read", hint="is it yours?") from e
        except UnicodeDecodeError as e:
            raise ConfigError("read settings", str(path), "is not UTF-8 text", hint="save it as UTF-8") from e
        except tomllib.TOMLDecodeError as e:
            raise ConfigError("read settings", str(path), f"is not TOML: {e}", hint="strings need quotes") from e
    try:
        settings = Settings(**content)
    except ValidationError as e:
        raise _config_error(e, path, text) from None
    settings._path, settings._text = path.resolve() if path else None, text  # noqa: SLF001  our own private fields
    _ = settings.connectors, settings.rules
    return settings


def _collected(part: Part, metrics: Mapping[str, Mapping[str, Metric]]) -> Metric | None:
    """Return the metric a part names, of the metrics of each source, or None."""
    sources = [part.source] if part.source else list(metrics)
    return next((metrics[one][part.metric] for one in sources if part.metric in metrics.get(one, {})), None)


def line_of(text: str, place: Sequence[str | int]) -> int | None:
    r"""
    Return the line, from 1, on which a key or table stands in TOML text, or None.

    A key inside an inline value has that value's line.

    >>> line_of("[store]\nurl = 1\n", ("store", "url"))
    2
    """
    wanted = [str(part) for part in place]
    best: tuple[int, int] | None = None
    table: list[str] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]", line):
            table = [part.strip().strip("\"'") for part in header[2].split(".")]
            if header[1] == "[[":
                seen[header[2]] = seen.get(header[2], -1) + 1
                table.append(str(seen[header[2]]))
            here = table
        elif key := re.match(r"\s*([A-Za-z0-9_.\"'-]+?)\s*=", line):
            here = table + [part.strip("\"'") for part in key[1].split(".")]
        else:
            continue
        if wanted[: len(here)] == here and (best is None or len(here) > best[0]):
            best = len(here), number
    return best[1] if best else None


_PLAINLY: Mapping[str, str] = {
    NAME: "must be a name of letters, digits and _ . - inside",
    ADDRESS: "must be a mail address such as me@example.com",
    REPOSITORY: 'must be "owner/name"',
    URL: "must be an http:// or https:// address, without credentials in it",
}
"""What a pattern asks for, in words."""


def _config_error(
    error: ValidationError,
    path: Path | None,
    text: str,
    place: tuple[str, ...] = (),
    model: type[BaseModel] | None = None,
) -> ConfigError:
    """Return the first thing wrong as an error; ``model`` is what stands at ``place``, all of the settings if None."""
    first = next(iter(sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")))
    inside = tuple(part for part in first["loc"] if part != "[key]")
    named = first.get("ctx", {}).get("error")
    if isinstance(named, _SourceError):
        inside = (*inside, named.source)
    location = (*place, *inside)
    dotted = ".".join(str(part) for part in location) or "settings"
    line = line_of(text, [str(part) for part in location])
    target = f"{path}, line {line}, {dotted}" if path and line else f"{path}, {dotted}" if path else dotted
    if first["type"] == "extra_forbidden":
        known = sorted(_known(model or Settings, inside[:-1]) - {"source", "subjects"} if place else
                       _known(Settings, inside[:-1]))
        near = difflib.get_close_matches(str(location[-1]), known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}" if known else ""
        return ConfigError("read", target, "unknown key", hint=hint)
    return ConfigError("read", target, _cause(dict(first)), hint="see harvester.example.toml")


def _cause(first: Mapping[str, Any]) -> str:
    """Return what is wrong in words a person who wrote a file understands."""
    context = first.get("ctx", {})
    if first["type"] == "string_pattern_mismatch" and context.get("pattern") in _PLAINLY:
        return f"{first['input']!r} {_PLAINLY[context['pattern']]}" if context["pattern"] != URL else _PLAINLY[URL]
    if first["type"] == "too_short":
        return f"needs at least {context['min_length']} {'entry' if context['min_length'] == 1 else 'entries'}"
    if first["type"] == "missing":
        return "is missing"
    if first["type"] in ("model_type", "dict_type"):
        return "must be a table"
    said = re.sub(r"^Value error, ", "", str(first["msg"])).replace("Input should", "must").replace("a valid ", "a ")
    return said[:1].lower() + said[1:]


def _known(model: Any, location: Sequence[str | int]) -> set[str]:
    """Return the keys a model knows at a place inside it; none where that is no model."""
    for part in (*location, None):
        if get_origin(model) in (Union, UnionType):
            model = next(one for one in get_args(model) if one is not type(None))
        known = model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else None
        if part is None:
            return set(known or ())
        if known is not None:
            model = known[str(part)].annotation if part in known else None
        else:  # a tuple's or a table's entries are all alike
            model = next((one for one in reversed(get_args(model)) if one is not Ellipsis), None)
    return set()
