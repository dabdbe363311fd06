// What the compiled operators share: maps of any type and memory format, tiles of them with channels
// innermost, and the sums over a pixel's neighbours.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kVectors = 4;  // of channels at a time, as registers allow
#else
constexpr int kVectorBytes = 32;
constexpr int kVectors = 2;
#endif

enum Type : int32_t { kFloat, kDouble, kHalf, kBfloat16 };

// A tensor (B, C, H, W); strides in elements.
struct Map {
    void* data;
    int64_t stride[4];
    int32_t type;
};

struct Range {
    int64_t begin, end;
    int64_t size() const { return end - begin; }
};

template <class A>
struct Wide {
    static constexpr int lanes = kVectorBytes / sizeof(A);
    typedef A Vector __attribute__((vector_size(kVectorBytes), aligned(sizeof(A)), may_alias));
    typedef typename std::conditional<sizeof(A) == 4, int32_t, int64_t>::type Integer;
    typedef Integer Index __attribute__((vector_size(kVectorBytes)));

    static Vector load(const A* from) { return *reinterpret_cast<const Vector*>(from); }
    static void store(A* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }
    // By halves; GCC makes no good code of a loop over the numbers.
    template <int Lanes = lanes>
    static A sum(const A* part) {
        if constexpr (Lanes == 1) {
            return *part;
        } else {
            constexpr int half = Lanes / 2;
            typedef A Half __attribute__((vector_size(half * sizeof(A)), aligned(sizeof(A)), may_alias));
            A sums[half];
            *reinterpret_cast<Half*>(sums) = *reinterpret_cast<const Half*>(part) +
                                             *reinterpret_cast<const Half*>(part + half);
            return sum<half>(sums);
        }
    }
    static A sum(Vector value) { return sum<lanes>(reinterpret_cast<const A*>(&value)); }
};

// Vectors as the rows of a square matrix, turned into its columns: at each step blocks of half the
// side change places.
template <class A, int Side = Wide<A>::lanes / 2>
void transpose(typename Wide<A>::Vector* rows) {
    constexpr int lanes = Wide<A>::lanes;
    typedef typename Wide<A>::Index Index;
    Index low, high;
    for (int i = 0; i < lanes; ++i) {
        low[i] = i & Side ? lanes + i - Side : i;
        high[i] = i & Side ? lanes + i : i + Side;
    }
    for (int i = 0; i < lanes; ++i)
        if (!(i & Side)) {
            const auto a = rows[i], b = rows[i + Side];
            rows[i] = __builtin_shuffle(a, b, low);
            rows[i + Side] = __builtin_shuffle(a, b, high);
        }
    if constexpr (Side > 1) transpose<A, Side / 2>(rows);
}

struct Bfloat16 {
    uint16_t bits;
    operator float() const {
        uint32_t wide = uint32_t(bits) << 16;
        float value;
        std::memcpy(&value, &wide, 4);
        return value;
    }
    Bfloat16() = default;
    explicit Bfloat16(float value) {
        uint32_t wide;
        std::memcpy(&wide, &value, 4);
        // To the nearest, ties to even; a NaN stays one.
        bits = value != value ? 0x7fc0 : uint16_t((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
    }
};

// Call a function with a pointer to the map's data in its own type.
template <class F>
void with_type(const Map& map, F function) {
    switch (map.type) {
        case kFloat: return function(static_cast<float*>(map.data));
        case kDouble: return function(static_cast<double*>(map.data));
        case kHalf: return function(static_cast<_Float16*>(map.data));
        default: return function(static_cast<Bfloat16*>(map.data));
    }
}

// A number of channels as whole vectors.
template <class A>
int64_t rounded(int64_t channels) {
    return (channels + Wide<A>::lanes - 1) / Wide<A>::lanes * Wide<A>::lanes;
}

// Pixels of a map with their channels innermost, `depth` numbers for each pixel.
template <class A>
struct Tile {
    std::vector<A> memory;
    A* data = nullptr;
    Range rows{0, 0}, columns{0, 0};
    int64_t depth = 0;

    int64_t size() const { return rows.size() * columns.size() * depth; }
    void shape(Range r, Range c, int64_t d) {
        rows = r, columns = c, depth = d;
        const size_t needed = size() + kVectorBytes / sizeof(A);
        if (memory.size() < needed) memory.resize(needed);
        data = memory.data();
        while (reinterpret_cast<uintptr_t>(data) % kVectorBytes) ++data;
    }
    void clear() { std::fill(data, data + size(), A(0)); }
    A* at(int64_t row, int64_t column) {
        return data + ((row - rows.begin) * columns.size() + column - columns.begin) * depth;
    }

    // Copy channels from an image of height x width; what is beyond it, or them, is zero.
    void read(const Map& map, int64_t image, Range channels, int64_t height, int64_t width) {
        with_type(map, [&](auto* elements) {
            const auto* base = elements + image * map.stride[0] + channels.begin * map.stride[1];
            const int64_t count = channels.size(), x0 = std::max<int64_t>(columns.begin, 0),
                          x1 = std::min(columns.end, width), step = map.stride[3];
            const bool inside = x0 == columns.begin && x1 == columns.end && count == depth;
            for (int64_t y = rows.begin; y < rows.end; ++y) {
                A* line = at(y, columns.begin);
                if (y < 0 || y >= height || !inside)
                    std::fill(line, line + columns.size() * depth, A(0));
                if (y < 0 || y >= height) continue;
                const auto* from = base + y * map.stride[2];
                if (map.stride[1] == 1) {
                    for (int64_t x = x0; x < x1; ++x)
                        for (int64_t c = 0; c < count; ++c) at(y, x)[c] = A(from[x * step + c]);
                } else {
                    const int64_t whole = step == 1 ? read_squares(from, map, count, y, x0, x1) : 0;
                    for (int64_t c = 0; c < count; ++c) {
                        const auto* source = from + c * map.stride[1];
                        const int64_t first = c < whole ? x1 - (x1 - x0) % Wide<A>::lanes : x0;
                        A* to = at(y, first) + c;
                        for (int64_t x = first; x < x1; ++x, to += depth) *to = A(source[x * step]);
                    }
                }
            }
        });
    }

    // Copy squares of channels and columns by transposing them; return the channels that it covers.
    template <class From>
    int64_t read_squares(const From* line, const Map& map, int64_t count, int64_t y, int64_t x0,
                         int64_t x1) {
        typedef Wide<A> W;
        const int64_t whole = count - count % W::lanes;
        for (int64_t c = 0; c < whole; c += W::lanes)
            for (int64_t x = x0; x + W::lanes <= x1; x += W::lanes) {
                typename W::Vector square[W::lanes];
                for (int i = 0; i < W::lanes; ++i) {
                    const From* from = line + (c + i) * map.stride[1] + x;
                    if constexpr (std::is_same<From, A>::value)
                        square[i] = W::load(from);
                    else
                        for (int j = 0; j < W::lanes; ++j) square[i][j] = A(from[j]);
                }
                transpose<A>(square);
                for (int i = 0; i < W::lanes; ++i) W::store(at(y, x + i) + c, square[i]);
            }
        return whole;
    }

    template <class To>
    int64_t write_squares(To* line, const Map& map, int64_t count, int64_t y, int64_t x0,
                          int64_t x1) {
        typedef Wide<A> W;
        const int64_t whole = count - count % W::lanes;
        for (int64_t c = 0; c < whole; c += W::lanes)
            for (int64_t x = x0; x + W::lanes <= x1; x += W::lanes) {
                typename W::Vector square[W::lanes];
                for (int i = 0; i < W::lanes; ++i) square[i] = W::load(at(y, x + i) + c);
                transpose<A>(square);
                for (int i = 0; i < W::lanes; ++i) {
                    To* to = line + (c + i) * map.stride[1] + x;
                    if constexpr (std::is_same<To, A>::value)
                        W::store(to, square[i]);
                    else
                        for (int j = 0; j < W::lanes; ++j) to[j] = To(square[i][j]);
                }
            }
        return whole;
    }

    // Copy a part to an image.
    void write(const Map& map, int64_t image, Range channels, Range part_rows, Range part_columns) {
        with_type(map, [&](auto* elements) {
            typedef typename std::remove_pointer<decltype(elements)>::type To;
            auto* base = elements + image * map.stride[0] + channels.begin * map.stride[1];
            const int64_t count = channels.size(), step = map.stride[3];
            for (int64_t y = part_rows.begin; y < part_rows.end; ++y) {
                auto* line = base + y * map.stride[2];
                if (map.stride[1] == 1) {
                    for (int64_t x = part_columns.begin; x < part_columns.end; ++x)
                        for (int64_t c = 0; c < count; ++c) line[x * step + c] = To(at(y, x)[c]);
                } else {
                    const int64_t x0 = part_columns.begin, x1 = part_columns.end;
                    const int64_t whole = step == 1 ? write_squares(line, map, count, y, x0, x1) : 0;
                    for (int64_t c = 0; c < count; ++c) {
                        auto* to = line + c * map.stride[1];
                        const int64_t first = c < whole ? x1 - (x1 - x0) % Wide<A>::lanes : x0;
                        const A* from = at(y, first) + c;
                        for (int64_t x = first; x < x1; ++x, from += depth) to[x * step] = To(*from);
                    }
                }
            }
        });
    }
};

// The sums over the taps of `Outputs` output pixels that share their neighbours.
template <class A, int Outputs, int Vectors>
void gather_cell(const A* features, const int64_t* offset, int taps, const A* const* kernels,
                 A* const* values) {
    typedef Wide<A> W;
    typename W::Vector sum[Outputs][Vectors] = {};
    for (int t = 0; t < taps; ++t) {
        typename W::Vector x[Vectors];
        for (int v = 0; v < Vectors; ++v) x[v] = W::load(features + offset[t] + v * W::lanes);
        for (int o = 0; o < Outputs; ++o)
            for (int v = 0; v < Vectors; ++v) sum[o][v] += kernels[o][t] * x[v];
    }
    for (int o = 0; o < Outputs; ++o)
        for (int v = 0; v < Vectors; ++v) W::store(values[o] + v * W::lanes, sum[o][v]);
}

template <class A, int Outputs, int Vectors>
void scatter_cell(A* features, const int64_t* offset, int first, int taps, const A* const* kernels,
                  A* const* values) {
    typedef Wide<A> W;
    typename W::Vector y[Outputs][Vectors];
    for (int o = 0; o < Outputs; ++o)
        for (int v = 0; v < Vectors; ++v) y[o][v] = W::load(values[o] + v * W::lanes);
    for (int t = first; t < taps; ++t)
        for (int v = 0; v < Vectors; ++v) {
            A* to = features + offset[t] + v * W::lanes;
            typename W::Vector sum = W::load(to);
            for (int o = 0; o < Outputs; ++o) sum += kernels[o][t] * y[o][v];
            W::store(to, sum);
        }
}

template <class A, int Outputs, int Taps>
void correlate_cell(const A* features, const int64_t* offset, int64_t depth, A* const* kernels,
                    const A* const* values) {
    typedef Wide<A> W;
    typename W::Vector sum[Outputs][Taps] = {};
    for (int64_t c = 0; c < depth; c += W::lanes) {
        typename W::Vector y[Outputs];
        for (int o = 0; o < Outputs; ++o) y[o] = W::load(values[o] + c);
        for (int t = 0; t < Taps; ++t) {
            const typename W::Vector x = W::load(features + offset[t] + c);
            for (int o = 0; o < Outputs; ++o) sum[o][t] += y[o] * x;
        }
    }
    for (int o = 0; o < Outputs; ++o)
        for (int t = 0; t < Taps; ++t) kernels[o][t] += W::sum(sum[o][t]);
}

// Call function.template operator()<n>(at) for parts of `total` of the largest n that fit.
template <int Most, class F>
void in_parts(int64_t total, F function, int64_t at = 0) {
    for (; total - at >= Most; at += Most) function(std::integral_constant<int, Most>(), at);
    if constexpr (Most > 1) in_parts<Most / 2>(total, function, at);
}

}  // namespace
