"""The settings a verb works with: what dsctl.yaml says over the built-in defaults, as typed values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dsctl.base.errors import ConfigError
from dsctl.base.places import data_root
from dsctl.config.reading import read
from dsctl.config.schema import Scalar, schema
from engine.spec.config import QUANTIZATIONS

FILE_NAME = "dsctl.yaml"
NOT_FLAGS = ("kind", "device")  # settings of `engine` that are not flags of it


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings by dotted path, and which of them the user wrote."""

    values: Mapping[str, Scalar]
    given: frozenset[str]
    source: Path | None  # the file, when there is one

    def text(self, path: str) -> str:
        """A setting that is text."""
        return str(self.values[path])

    def integer(self, path: str) -> int:
        """A setting that is an integer."""
        return int(self.values[path])

    def number(self, path: str) -> float:
        """A setting that is a number."""
        return float(self.values[path])

    def flag(self, path: str) -> bool:
        """A setting that is yes or no."""
        return bool(self.values[path])

    @property
    def project(self) -> str:
        """The project's name."""
        return self.text("project")

    def engine_flags(self) -> dict[str, Scalar]:
        """The engine settings that differ from their defaults, by the engine's own names; "mixed" is bfloat16."""
        flags: dict[str, Scalar] = {}
        for path, setting in schema().settings.items():
            section, _, key = path.partition(".")
            if section != "engine" or key in NOT_FLAGS:
                continue
            value = "bfloat16" if self.values[path] == "mixed" else self.values[path]
            if key == "quantization" and str(value).endswith(".json"):  # a policy file, relative to dsctl.yaml
                value = str((self.base / Path(str(value)).expanduser()).absolute())
            if value != setting.default:
                flags[key] = value
        return flags

    @property
    def base(self) -> Path:
        """What relative paths are relative to: the directory of dsctl.yaml."""
        return self.source.parent if self.source else Path.cwd()

    def model_dir(self) -> Path:
        """The checkpoint's directory: as written, relative to dsctl.yaml, or one of the bundled models."""
        named = self.text("model")
        direct = (self.base / Path(named).expanduser()).absolute()
        bundled = data_root() / "models" / named
        if "/" not in named and not direct.is_dir():
            return bundled
        return direct

    def model_name(self) -> str:
        """What clients call the model."""
        return self.text("served_model_name") or Path(self.text("model")).name


def load(path: Path | None, overrides: Mapping[str, Scalar] | None = None, *, cwd: Path | None = None) -> Settings:
    """Reads `path`, or ./dsctl.yaml when there is one; `overrides` (from the command line) win over the file."""
    source = path
    if source is None and (near := (cwd or Path.cwd()) / FILE_NAME).is_file():
        source = near
    written = read(source) if source else {}
    written |= {key: schema().settings[key].check(value, f"--{key}") for key, value in (overrides or {}).items()}
    values = {key: setting.default for key, setting in schema().settings.items()} | written
    settings = Settings(values, frozenset(written), source.absolute() if source else None)
    _agree(settings)
    return settings


def _agree(settings: Settings) -> None:
    if not settings.text("model").strip():
        raise ConfigError("model is empty", hint="model: dsctl-tiny, or the directory of a checkpoint")
    if bool(settings.text("front.tls_certificate")) != bool(settings.text("front.tls_key")):
        raise ConfigError(
            "front.tls_certificate and front.tls_key go together; only one is given",
            hint="front.tls_certificate: chain.pem and front.tls_key: key.pem",
        )
    if not settings.text("inventory.state_dir").startswith("/"):
        raise ConfigError("inventory.state_dir is not an absolute path", hint="inventory.state_dir: /var/lib/dsctl")
    quantization = settings.text("engine.quantization")
    if quantization not in QUANTIZATIONS and not quantization.endswith(".json"):
        raise ConfigError(
            f"engine.quantization is {quantization!r}; it is one of {', '.join(QUANTIZATIONS)} or a policy file",
            hint="engine.quantization: auto",
        )
    wanted = settings.integer("engine.preferred_batch_size")
    if wanted > settings.integer("engine.max_num_seqs"):
        raise ConfigError(
            f"engine.preferred_batch_size is {wanted}, more than engine.max_num_seqs "
            f"({settings.integer('engine.max_num_seqs')}) can ever be",
            hint=f"engine.max_num_seqs: {wanted}",
        )
