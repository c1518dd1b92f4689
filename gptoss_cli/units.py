"""Counts, download sizes, durations and ages in words. Sizes of memory are in GiB: see placement.reasons.gib."""

_STEPS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: 1 character, 2,000 characters."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size_words(count_bytes: int) -> str:
    """Return a size in decimal units with about three digits: 13.8 GB, 27.9 MB, 1.8 kB, 12 B."""
    for unit, step in _STEPS:
        if count_bytes >= step:
            value = count_bytes / step
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
    return f"{count_bytes} B"


def duration_words(seconds: float) -> str:
    """Return a duration such as 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def age_words(seconds: float) -> str:
    """Return the time since something, roughly: just now, 5 minutes ago, 1 day ago, 2 years ago."""
    for unit, step in (("year", 31_557_600), ("month", 2_629_800), ("day", 86_400), ("hour", 3600), ("minute", 60)):
        count = int(seconds // step)
        if count >= 1:
            return f"{counted(count, unit)} ago"
    return "just now"
