"""The three operators as Triton kernels, for NVIDIA GPUs; imported on demand, with Triton.

What bounds them, by reasoning (nothing was measured). For each output pixel a gather does
``2 * k * k * C`` operations and has to move, in float32, ``4 * C`` bytes of values,
``4 * C / s ** 2`` of features and ``4 * k * k`` of kernels. For k = 5 and many channels that is 6
operations a byte without upscaling and 10 at scale 2; by their data sheets GPUs turn from
memory-bound to arithmetic-bound at 10 (A100) to 20 (H100). So memory is the limit, as long as
nothing crosses it twice, nor the first-level cache too often, through which 32 numbers a clock go
beside 128 multiply-adds:

* **Tiles in two dimensions.** Neighbouring pixels share their windows. A tile of 8 x 32 pixels with
  k = 5 reads (12 * 36) / (8 * 32) = 1.7 times its pixels, from the second-level cache; a tile of
  one row would read 5 times as much. 32 columns, and 32 channels of ``channels_last`` maps, are one
  line of 128 bytes.
* **Outputs of one source pixel together.** At scale 2 the four outputs of a source pixel read the
  same window, so that a feature in a register serves four multiply-adds: k * k / 4 loads per
  output. Otherwise it is k * k loads, which for k >= 5 may bound the kernel before memory does.
* **Many channels at a time.** A weight is loaded once for each block of 8 to 32 channels. The
  blocks of a tile follow each other in the same program, or in programs that run side by side, so
  that the repeats are served by caches.
* **One thread for each pixel.** A tile has as many pixels as its program has threads, and a thread
  holds all channels of the block: everything the inner loop reads then lies where it is used, and
  nothing passes through shared memory. For ``channels_last`` threads share out channels as well.
* **Registers.** 8 to 32 sums and the loads in flight keep a thread below 128 registers, so that at
  least two programs of 256 threads share a multiprocessor.

The correlation holds the sums of all taps of a pixel instead, and reads values and features once
while it goes through the channels.

The scatter is a sum over the output pixels that read a feature. They form a rectangle for every
ratio of the sizes, because the source pixel never decreases along an axis. Therefore no kernel here
adds atomically: all results are the same from run to run, and
``torch.use_deterministic_algorithms`` changes nothing.
"""

from freqfusion.layers.neighbourhood.fused.launch import (
    correlate,
    fits,
    gather,
    is_interpreted,
    scatter,
)

__all__ = ["correlate", "fits", "gather", "is_interpreted", "scatter"]
