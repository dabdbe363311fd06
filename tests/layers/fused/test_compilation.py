"""The kernels compile for Ampere and Hopper, ahead of time and without a GPU."""

import pytest
import torch

from freqfusion.layers.neighbourhood import Geometry

triton = pytest.importorskip("triton", reason="triton is not installed")
POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
}


class Compiler:
    """Stands in for a kernel: compiles what would be launched."""

    def __init__(self, kernel, capability, compiled):
        self.kernel, self.capability, self.compiled = kernel, capability, compiled

    def __getitem__(self, grid):
        return self.compile

    def compile(self, *arguments, num_warps, maxnreg, **constants):
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        signature, hints = {}, {}
        constants = dict(constants)
        for number, (name, value) in enumerate(zip(self.kernel.arg_names, arguments, strict=False)):
            if isinstance(value, torch.Tensor):
                signature[name] = POINTERS[value.dtype]
                hints[(number,)] = [["tt.divisibility", 16]]
            elif value == 1 and "_" in name:
                constants[name] = 1
            else:
                signature[name] = "i32"
        signature |= dict.fromkeys(constants, "constexpr")
        source = ASTSource(self.kernel, signature, constexprs=constants, attrs=hints)
        target = GPUTarget("cuda", self.capability, 32)
        options = {"num_warps": num_warps, "maxnreg": maxnreg}
        self.compiled.append(triton.compile(source, target=target, options=options))


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("dtype", POINTERS, ids=str)
@pytest.mark.parametrize(
    ("scale", "kernel_size", "out_size"), [(1, 3, (64, 64)), (2, 5, (128, 127)), (2, 3, (99, 100))]
)
def test_every_kernel_compiles(
    monkeypatch, tmp_path, scale, kernel_size, out_size, dtype, last, capability
):
    from freqfusion.layers.neighbourhood.fused import launch

    if launch.is_interpreted():
        pytest.skip("Triton interprets the kernels")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiled = []
    for name in ("gather_kernel", "correlate_kernel", "scatter_kernel"):
        compiler = Compiler(getattr(launch, name), capability, compiled)
        monkeypatch.setattr(launch, name, compiler)
    geometry = Geometry(kernel_size, scale=scale)
    layout = torch.channels_last if last else torch.contiguous_format
    shapes = ((2, 64, 64, 64), (2, kernel_size**2, *out_size), (2, 64, *out_size))
    features, kernels, values = (
        torch.empty(shape, dtype=dtype).contiguous(memory_format=layout) for shape in shapes
    )
    launch.gather(features, kernels, geometry)
    launch.correlate(values, features, geometry)
    launch.scatter(values, kernels, (64, 64), geometry)
    assert [c.asm["cubin"][:4] for c in compiled] == [b"\x7fELF"] * 3
    # A tile that needs more shared memory than a multiprocessor has would fail at the launch.
    assert all(c.metadata.shared <= 48 * 1024 for c in compiled)
    assert not any("atom" in c.asm["ptx"] or "red.global" in c.asm["ptx"] for c in compiled)
