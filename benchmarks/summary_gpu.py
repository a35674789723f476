"""The stated figures that were measured on GPUs."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.figure import Figure, rows_of


def gpu_figures() -> Iterator[Figure]:
    """Yield what the last run on a card gave, and the costs at the shapes of real models."""
    kit = "python -m benchmarks.gpu --minutes 8"
    every = rows_of("gpu/results.csv")
    rows = [row for row in every if row["code"] == every[-1]["code"]]  # the last code that ran
    date, device = rows[0]["time"][:10], rows[0]["device"]
    about = ("gpu/results.csv", f"{kit} --only gradients", date, device)
    errors = [row for row in rows if row["part"] == "gradients" and row["measure"] == "gradient error"]
    for dtype in ("fp32", "bf16"):
        found = [float(row["value"]) for row in errors if dtype in row["case"]]
        spread = f"largest of {len(found)} ways; smallest {min(found):.1e}"
        name = f"gradient of L_SD, verl's engine against a CPU, {dtype}"
        yield Figure("gpu", name, f"{max(found):.1e}", spread, *about)
    about = ("gpu/results.csv", f"{kit} --only stack", date, device)
    for row in rows:
        if row["part"] == "stack" and row["measure"] != "error":
            name = f"{row['case']}, {row['measure']}"
            yield Figure("gpu", f"demo: {name}", f"{float(row['value']):.2g}", row["detail"], *about)
    for row in rows_of("cost/actor_step.csv"):
        if row["shape"] != "tiny":
            yield from _actor_on_gpu(row, kit)
    yield from _divergence_on_gpu()


def _actor_on_gpu(row: dict[str, str], kit: str) -> Iterator[Figure]:
    shape, tuned = row["shape"].removeprefix("qwen2.5-").upper(), "use_liger" in row["override"]
    part = f"actor-{shape.lower()}{'-tuned' if tuned else ''}"
    name = f"{shape} shape on {row['device']}{', tuned' if tuned else ''}"
    about = ("cost/actor_step.csv", f"{kit} --only {part}", _gpu_date(part, row["device"]), row["device"])
    quartiles = f"quartiles {float(row['ratio_q25']):.2f} to {float(row['ratio_q75']):.2f}, "
    several = int(row["repeats"]) > 1
    medians = [float(row[f"{part}_s"]) for part in ("old_log_prob", "reference", "update")]
    grpo, taught = sum(medians), sum(medians[:2]) + float(row["update_with_sd_s"])
    spread = f"{quartiles}{row['repeats']} pairs" if several else "one pair of steps"
    spread += f"; of the parts' medians {taught / grpo:.2f}"
    yield Figure("gpu", f"actor's part, GRPO = 1: {name}", f"{float(row['ratio']):.3f}", spread, *about)
    if row["loss_s"]:
        share = f"{float(row['loss_share_of_update']):.2%}"
        yield Figure("gpu", f"SD loss, of the update: {name}", share, "timed directly", *about)
    yield Figure("gpu", f"memory beside GRPO's, GB: {name}", f"{float(row['peak_extra_gb']):.4f}", "", *about)


def _divergence_on_gpu() -> Iterator[Figure]:
    rows = [row for row in rows_of("cost/divergence.csv") if row["device"].startswith("NVIDIA")]
    command = "PYTHONPATH=LIBS python -m benchmarks.cost.divergence"
    for device, size in (("H100", 64), ("H100", 256), ("H200", 64), ("H200", 1024), ("H200", 16384)):
        here = [row for row in rows if device in row["device"] and int(row["rows"]) == size]
        seconds = {row["contender"]: float(row["total_s"]) for row in here}
        ours = seconds.pop("ours top-k"), seconds.pop("ours")
        fastest = min(value for value in seconds.values() if value == value)
        ratio = " and ".join(f"{value / fastest:.2f}" for value in ours)
        name = f"divergence of {size:,} rows, top 50 and all, fastest other = 1: {device}"
        others = f"{sum(value == value for value in seconds.values())} others"
        device = here[0]["device"]
        yield Figure(
            "gpu",
            name,
            ratio,
            others,
            "cost/divergence.csv",
            command,
            _gpu_date("divergence", device),
            device,
        )


def _gpu_date(part: str, device: str) -> str:
    """Return when a part last ran on a device; a part that ran apart from the others, when any did."""
    here = [row for row in rows_of("gpu/results.csv") if row["device"] == device]
    return max(row["time"][:10] for row in [row for row in here if row["part"] == part] or here)
