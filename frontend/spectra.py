"""Short-time Fourier transforms: `stft` and its inverse."""
from __future__ import annotations

import treadle
from treadle import fft
from treadle.arguments import misfit
from treadle.functions import TABLE, tensor_argument
from treadle.tensor import Tensor, apply

__all__ = ["istft", "stft"]


def _fail(name: str, input: Tensor, text: str, kind: type[RuntimeError] = RuntimeError) -> RuntimeError:
    return kind(f"{name}({input.dtype.title}{list(input.shape)}): {text}")


def _window(name: str, input: Tensor, window: Tensor | None, n_fft: int, hop: int, length: int) -> Tensor | None:
    """The window in the middle of `n_fft` zeros; None where that would be all ones. RuntimeError for sizes that do not fit."""
    if hop <= 0:
        raise _fail(name, input, f"expected hop_length > 0, but got hop_length={hop}")
    if not 0 < length <= n_fft:
        raise _fail(name, input, f"expected 0 < win_length <= n_fft, but got win_length={length}")
    if window is not None and tuple(window.shape) != (length,):
        raise _fail(name, input, f"expected a 1D window tensor of size equal to win_length={length}, but got window with size "
                                 f"{list(window.shape)}")
    if length == n_fft:
        return window
    if window is None:
        window = input.new_ones((length,), dtype=input.real.dtype)
    left = (n_fft - length) // 2
    return treadle.nn.functional.pad(window, (left, n_fft - length - left))


def stft(input: Tensor, n_fft: int, hop_length: int | None = None, win_length: int | None = None, window: Tensor | None = None,
         center: bool = True, pad_mode: str = "reflect", normalized: bool = False, onesided: bool | None = None,
         return_complex: bool | None = None, align_to_window: bool | None = None) -> Tensor:
    """The spectra of frames of `n_fft` samples, every `hop_length` (n_fft // 4), times a window: (batch, frequency, frame).

    input: samples, (batch, time) or (time,). `center` pads so that frame t is around sample t * hop_length. Real samples have
    n_fft // 2 + 1 frequencies unless `onesided` is False. RuntimeError for sizes that do not fit, and where `return_complex` is left
    to chance.
    """
    x = tensor_argument("stft", input)
    if not isinstance(return_complex, bool | None):
        raise misfit("stft", "return_complex", 10, "bool", return_complex)
    if align_to_window is not None and center:
        raise RuntimeError("stft only supports align_to_window for center = False.")
    whole = x.is_complex() or (window is not None and window.is_complex())
    if return_complex is None:
        if not whole:
            raise RuntimeError("stft requires the return_complex parameter be given for real inputs, and will further require that "
                               "return_complex=True in a future PyTorch release.")
        return_complex = True
    if not (x.is_floating_point() or x.is_complex()):
        raise _fail("stft", x, "expected a tensor of floating point or complex values", NotImplementedError)
    if x.dim() not in (1, 2):
        raise _fail("stft", x, "expected a 1D or 2D tensor")
    batched, x = x.dim() == 2, x if x.dim() == 2 else x.unsqueeze(0)
    if center:
        x = treadle.nn.functional.pad(x.unsqueeze(1), (n_fft // 2, n_fft // 2), mode=pad_mode).squeeze(1)
    hop, length = n_fft // 4 if hop_length is None else hop_length, n_fft if win_length is None else win_length
    if not x.shape[0]:
        raise _fail("stft", input, "expected a batch that is not empty")
    if not 0 < n_fft <= x.shape[1]:
        raise _fail("stft", input, f"expected 0 < n_fft < {x.shape[1]}, but got n_fft={n_fft}")
    padded = _window("stft", x, window, n_fft, hop, length)
    if not center and align_to_window:
        left = (n_fft - length) // 2
        x = treadle.nn.functional.pad(x, (left, n_fft - length - left))
    frames = x.contiguous().unfold(1, n_fft, hop)
    if padded is not None:
        frames = frames * padded
    if whole and onesided:
        raise _fail("stft", input, "Cannot have onesided output if window or input is complex")
    norm = "ortho" if normalized else None
    half = not whole and onesided in (None, True)
    spectra = (fft.rfft(frames, norm=norm) if half else fft.fft(frames, norm=norm)).transpose(1, 2)
    spectra = spectra if batched else spectra.squeeze(0)
    return spectra if return_complex else treadle.view_as_real(spectra.contiguous())


def _check_spectra(x: Tensor, n_fft: int, onesided: bool) -> None:
    if not x.is_complex():
        raise RuntimeError("istft requires a complex-valued input tensor matching the output from stft with return_complex=True.")
    if x.numel() == 0:
        raise _fail("istft", x, "input tensor cannot be empty.")
    if x.dim() not in (2, 3):
        raise _fail("istft", x, f"expected a tensor with 3 or 4 dimensions, but got {x.dim() + 1}")
    rows = x.shape[-2]
    if rows != (n_fft // 2 + 1 if onesided else n_fft):
        wanted = f"onesided input, 2 * (fft_size - 1) or 2 * (fft_size - 1) + 1 equal to n_fft={n_fft}" if onesided else f"fft_size={n_fft}"
        raise _fail("istft", x, f"expected the frequency dimension (3rd to the last) of the input tensor to match {wanted}, but got {rows}")


def istft(input: Tensor, n_fft: int, hop_length: int | None = None, win_length: int | None = None, window: Tensor | None = None,
          center: bool = True, normalized: bool = False, onesided: bool | None = None, length: int | None = None,
          return_complex: bool = False) -> Tensor:
    """The samples whose frames have these spectra, (batch, frequency, frame): frames added where they overlap, divided by the windows.

    `length` samples, else as many as the frames hold. RuntimeError where the windows leave a sample (nearly) uncovered.
    """
    x = tensor_argument("istft", input)
    one = (x.shape[-2] != n_fft) if onesided is None and x.dim() >= 2 else bool(onesided)
    _check_spectra(x, n_fft, one)
    hop, wide = n_fft // 4 if hop_length is None else hop_length, n_fft if win_length is None else win_length
    padded = _window("istft", x, window, n_fft, hop, wide)
    if return_complex and one:
        raise _fail("istft", x, "Cannot have onesided output if window or input is complex")
    if not return_complex and window is not None and window.is_complex():
        raise _fail("istft", x, "Complex windows are incompatible with return_complex=False")
    batched, x = x.dim() == 3, x if x.dim() == 3 else x.unsqueeze(0)
    norm = "ortho" if normalized else None
    spectra = x.transpose(1, 2)
    if return_complex:
        frames = fft.ifft(spectra, norm=norm)
    else:
        frames = fft.irfft(spectra if one else spectra[..., :n_fft // 2 + 1], n_fft, norm=norm)
    ones = frames.new_ones((n_fft,), dtype=frames.real.dtype) if padded is None else padded
    y, envelope = _overlapped(frames * ones, hop), _overlapped((ones * ones).expand(1, frames.shape[1], n_fft), hop)
    start, end = _span(y.shape[1], n_fft, center, length)
    y, envelope = y[:, start:end], envelope[:, start:end]
    if envelope.numel() and float(envelope.abs().min()) <= 1e-11:
        raise _fail("istft", input, "window overlap add min: 1")
    y = y / envelope
    if length is not None and length > y.shape[1]:
        y = treadle.nn.functional.pad(y, (0, length - y.shape[1]))
    return y if batched else y.squeeze(0)


def _span(total: int, n_fft: int, center: bool, length: int | None) -> tuple[int, int]:
    start = n_fft // 2 if center else 0
    end = start + length if length is not None else total - n_fft // 2 if center else total
    return start, min(end, total)


def _overlapped(frames: Tensor, hop: int) -> Tensor:
    """(batch, frame, sample) added up at `hop` samples' distance: (batch, time)."""
    rows, count, size = frames.shape
    total = size + hop * (count - 1)
    return apply(TABLE["as_strided_add"], (frames.new_zeros((rows, total)), frames), ((rows, count, size), (total, hop, 1), 0))
