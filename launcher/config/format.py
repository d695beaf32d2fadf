"""Counts and sizes in messages."""


def plural(count: int, what: str) -> str:
    """Return a count with its noun: '1 rank', '2 ranks', '3 micro-batches'."""
    return f"{count:,} {what}" + ("" if count == 1 else "es" if what.endswith("ch") else "s")


def human(size: float) -> str:
    """Return a number of bytes with its unit, such as '1.5 GiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def some(names: list[str], limit: int = 3) -> str:
    """Return the first names of a list, and the number of the others."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
