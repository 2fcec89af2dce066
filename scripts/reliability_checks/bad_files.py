"""Starts with damaged models: each is refused with one sentence and exit code 78, or the damage is harmless."""

import time
from collections import Counter
from pathlib import Path

from scripts.reliability_checks.damaged_models import Damage, damage_model, write_sound
from scripts.reliability_checks.forked_starts import WOULD_START, ForkedStarts, StartResult, start_really
from scripts.reliability_checks.outcome import Outcome
from server.cli import EX_CONFIG

NUM_MODELS = 2000
REAL_EVERY = 100  # of these one is also started in a process that imports everything itself
MAX_SENTENCE = 1000
MAX_EXTRA_BYTES = 200 << 20  # over a start that reads the whole model, which has half a megabyte


def run(share: float, model: Path, folder: Path, seed: int) -> Outcome:
    """Start with NUM_MODELS × share damaged models."""
    outcome, started = Outcome("bad files"), time.monotonic()
    sound, codes, results = write_sound(model, folder), Counter[str](), []
    total = max(1, round(NUM_MODELS * share))
    with ForkedStarts(folder) as starts:
        sound_results = [starts.start(path) for path in sound]
        for path, result in zip(sound, sound_results, strict=True):
            outcome.expect(result.code == WOULD_START, f"{path} is sound: {result.output[-500:]}")
        limit_bytes = max(result.rss_bytes for result in sound_results) + MAX_EXTRA_BYTES
        for number in range(total):
            damage = damage_model(sound, folder / "damaged", seed, number)
            result = starts.start(damage.model)
            results.append(result)
            codes["would start" if result.code == WOULD_START else f"exit {result.code}"] += 1
            for fault in find_faults(damage, result, limit_bytes):
                outcome.expect(False, f"{number}: {damage.words}: {fault}")
            if number % REAL_EVERY == REAL_EVERY - 1 and result.code == EX_CONFIG:
                code, line = start_really(damage.model)
                same = (code, line) == (result.code, f"jaxserve: {result.sentence}")
                outcome.expect(same, f"{number}: {damage.words}: a whole start says {code}, {line[:300]!r}")
    outcome.figures |= {
        "models": total,
        "seed": seed,
        "starts": dict(sorted(codes.items())),
        "largest memory, MiB": f"{max(result.rss_bytes for result in results) >> 20}, of {limit_bytes >> 20}",
        "largest CPU time, s": round(max(result.cpu_s for result in results), 1),
        "CPU time of all, s": round(sum(result.cpu_s for result in results)),
        "seconds": round(time.monotonic() - started),
    }
    return outcome


def find_faults(damage: Damage, result: StartResult, limit_bytes: int) -> list[str]:
    """Return what is wrong with the end of a start; limit_bytes: of memory."""
    sentence, faults = result.sentence, []
    if "Traceback" in result.output:
        faults.append(f"a traceback: {result.output[-700:]}")
    elif result.code not in (WOULD_START, EX_CONFIG):
        faults.append(f"it ended with {result.code}: {result.output[-300:]}")
    if result.code == WOULD_START and damage.is_fatal:
        faults.append("it would start")
    if result.code == EX_CONFIG:
        names = {path.name for path in (damage.model, *damage.model.parent.glob("damaged/*"))} | {damage.file}
        if not any(name in sentence for name in (*names, "--")):  # or the flag that does not fit
            faults.append(f"no file is named: {sentence or result.output[-300:]!r}")
        if len(sentence) > MAX_SENTENCE:
            faults.append(f"a sentence of {len(sentence)} characters")
    if result.rss_bytes > limit_bytes:
        faults.append(f"it took {result.rss_bytes >> 20} MiB")
    return faults
