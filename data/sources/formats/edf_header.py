"""The header of EDF, BDF, EDF+ and BDF+ files (Kemp & Olivan, Clin. Neurophysiol. 2003), as it is
written: MNE keeps only what it makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError

SUFFIXES = (".edf", ".bdf")


@dataclass(frozen=True)
class EdfHeader:
    """Lists hold one entry for each signal, the annotations' among them."""

    header_bytes: int
    reserved: str
    """"EDF+C", "EDF+D" ... or anything."""
    records: int
    """-1 while the recorder writes, and after it was switched off without closing the file."""
    record_s: float
    labels: list[str]
    units: list[str]
    physical: list[tuple[float, float]]
    """Minimum and maximum; nan where no number is written."""
    digital: list[tuple[float, float]]
    samples: list[int]
    """In each data record."""
    sample_bytes: int

    @property
    def record_bytes(self) -> int:
        return sum(self.samples) * self.sample_bytes

    def has_range(self, signal: int) -> bool:
        """Whether its numbers have a unit at all."""
        (low, high), (first, last) = self.physical[signal], self.digital[signal]
        return abs(high - low) > 0 and last > first  # false for nan


def read_edf_header(path: Path) -> EdfHeader:
    """Raises InputError where `path` does not begin with such a header."""
    try:
        with open(path, "rb") as file:
            fixed = file.read(256)
            count = int(fixed[252:256])
            if count < 1:
                raise ValueError("no signals")

            def column(width: int) -> list[str]:
                return [_text(file.read(width)) for _ in range(count)]

            labels = column(16)
            column(80)  # transducers
            units = column(8)
            low, high, first, last = (list(map(_number, column(8))) for _ in range(4))
            column(80)  # filters
            samples = list(map(int, column(8)))
        return EdfHeader(
            header_bytes=int(fixed[184:192]),
            reserved=_text(fixed[192:236]),
            records=int(fixed[236:244]),
            record_s=float(fixed[244:252]),
            labels=labels,
            units=units,
            physical=list(zip(low, high, strict=True)),
            digital=list(zip(first, last, strict=True)),
            samples=samples,
            sample_bytes=3 if path.suffix.lower() == ".bdf" else 2,
        )
    except ValueError as error:
        raise InputError(
            f"{path}: not the header of an EDF or BDF file ({error})",
            "it is damaged, or of another format: copy or download it again",
        ) from None


def _text(field: bytes) -> str:
    """Latin-1, as most recorders write, though the standard asks for ASCII."""
    return field.decode("latin-1").strip(" \0")


def _number(text: str) -> float:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return float("nan")
