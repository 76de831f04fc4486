"""Where to compute: the device that was asked for, and what is missing for it.

Imports nothing heavy: the command line asks before torch is imported.
"""

from __future__ import annotations


def chosen_device(device: str | None) -> str:
    """The device asked for, or the GPU where there is one.

    Raises
    ------
    ValueError : a name that torch does not know, or something that is missing; the message says what.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device)
    missing = missing_device(str(device))
    if missing:
        raise ValueError(missing)
    return str(device)


def check_device(device: object) -> None:
    """The name of a device, or a device of torch's own: a ValueError for what is none."""
    import torch

    try:
        torch.device(device)  # type: ignore[call-overload]
    except (RuntimeError, TypeError):
        raise ValueError(
            f"device is {device!r}; 'cpu', 'cuda' or one of several such as 'cuda:1' is needed"
        ) from None


def missing_device(device: str) -> str | None:
    """What is missing for ``--device``, in words, or None where it is there.

    Parameters
    ----------
    device : "cpu", "cuda", "cuda:1" ...
    """
    import torch

    from multipole_lab.environment import machine

    if not device.startswith("cuda"):
        return None
    if torch.cuda.is_available():
        capability = torch.cuda.get_device_capability(device)
        if capability >= (7, 5):
            return None
        return f"{machine(device)} has compute capability {capability}; 7.5 or later is needed"
    return (
        "--device cuda needs an NVIDIA GPU of compute capability 7.5 or later, its driver and a CUDA build of "
        f"torch; here is torch {torch.__version__}, which finds no GPU. `multipole-lab doctor` says what to install"
    )
