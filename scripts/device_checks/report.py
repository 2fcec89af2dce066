"""Records of the device checks: kept in a file, judged by the machine's own limits, and shown as a table."""

import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Report:
    """All records so far; a file that is given is rewritten, whole, after each."""

    def __init__(self, file: Path | None) -> None:
        self.about: Record = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        }
        self.records: list[Record] = []
        self._file = file

    def add(self, part: str, record: Record) -> None:
        record = {"part": part, **record}
        if record["kind"] == "machine":
            self.about |= {key: value for key, value in record.items() if key not in ("part", "kind")}
        self.records.append(record)
        print("  " + line_of(self.judged(record)), flush=True)
        if self._file:
            whole = {"about": self.about, "records": [self.judged(each) for each in self.records]}
            partial = self._file.with_name(self._file.name + ".part")
            partial.write_text(json.dumps(whole, indent=1))
            partial.replace(self._file)

    def judged(self, record: Record) -> Record:
        """Add the shortest possible time and its share of the measured one, once the machine is measured."""
        if "weight_bytes" not in record or "seconds" not in record or "flops_per_s" not in self.about:
            return record
        bytes_per_s = max(self.about["copy_bytes_per_s"], self.about["read_bytes_per_s"])
        floor = max(record["weight_bytes"] / bytes_per_s, record["flops"] / self.about["flops_per_s"])
        floor += record["context_bytes"] / bytes_per_s
        tokens = record["tokens"] if record["kind"] == "prefill" else record["rows"]
        return record | {
            "floor_s": floor,
            "percent_of_floor": 100 * floor / record["seconds"],
            "tokens_per_s": tokens / record["seconds"],
        }


def line_of(record: Record) -> str:
    """Return one record as a line for people."""
    what = [str(record[key]) for key in ("model", "backend", "dtype", "case", "sampler") if key in record]
    what += [f"{record[key]} {key}" for key in ("rows", "tokens") if key in record]
    if "seconds" in record:
        what.append(f"{record['seconds'] * 1e3:.3f} ms")
    if "percent_of_floor" in record:
        what.append(f"{record['percent_of_floor']:.0f} % of the floor")
    if "host_s" in record:
        what.append(f"host {record['host_s'] * 1e6:.0f} us")
    if record["kind"] == "machine":
        rates = (record["copy_bytes_per_s"] / 1e9, record["read_bytes_per_s"] / 1e9, record["flops_per_s"] / 1e12)
        what.append("copies {:.0f} GB/s, reads {:.0f} GB/s, multiplies {:.1f} TFLOP/s".format(*rates))
    what += [f"{record[key]:.0f} {key}" for key in ("output_tokens_per_s",) if key in record]
    what += [f"error {record['error']:.1e}"] if "error" in record else []
    what += [str(record[key]) for key in ("outcome", "why") if record.get(key)]
    return f"{record['kind']}: " + ", ".join(what)


def summary(report: Report) -> str:
    """Return the short table of steps, attention backends and the engine."""
    records = [report.judged(record) for record in report.records]
    lines = [f"{report.about.get('device', 'unmeasured device')}, {report.about['date']}", ""]
    outcomes: dict[tuple[str, str], int] = {}
    for record in records:
        if record["kind"] == "contract":
            key = (record["backend"], record["outcome"])
            outcomes[key] = outcomes.get(key, 0) + 1
    lines += [f"contract   {backend:<12}{outcome:<10}{n:>4}" for (backend, outcome), n in outcomes.items()]
    lines.append(
        f"{'':<11}{'model':<15}{'rows':>5}{'tokens':>8}{'ms':>10}{'floor':>9}{'%':>5}{'tok/s':>10}{'host us':>9}"
    )
    for record in records:
        if record["kind"] in ("decode", "prefill", "sampler", "peer") and "seconds" in record:
            lines.append(row_of(record) + beside(record, records))
    for record in records:
        if record["kind"] == "end to end":
            lines.append(
                f"end to end {record['model']:<15}{record['rows']:>5} rows, {record['input']} in, {record['output']}"
                f" out: {record['output_tokens_per_s']:.0f} tok/s out, {record['tokens_per_s']:.0f} in all,"
                f" {record['seconds']:.1f} s"
            )
    lines += [f"{each['part']}: {each['kind']}, {each['why']}" for each in records if each["kind"] in ODD]
    return "\n".join(lines)


ODD = ("skipped", "stopped", "broken")


def beside(record: Record, records: list[Record]) -> str:
    """Return the remark behind a peer's row: how many times faster the same step is here."""
    if record["kind"] == "peer":
        same = ("model", "rows", "tokens")
        for ours in records:
            if ours["kind"] == "decode" and "seconds" in ours and all(ours[key] == record[key] for key in same):
                return f"  ours {record['seconds'] / ours['seconds']:.2f} times as fast"
    return ""


def row_of(record: Record) -> str:
    """Return the row of a step in the table."""

    def number(key: str, factor: float, form: str) -> str:
        return format(record[key] * factor, form) if key in record else format("", form.split(".")[0])

    tokens = record.get("tokens", "")
    name = record.get("model") or record.get("sampler", "")
    return (
        f"{record['kind']:<11}{name:<15}{record['rows']:>5}{tokens:>8}{number('seconds', 1e3, '10.3f')}"
        f"{number('floor_s', 1e3, '9.3f')}{number('percent_of_floor', 1, '5.0f')}{number('tokens_per_s', 1, '10.0f')}"
        f"{number('host_s', 1e6, '9.0f')}"
    )
