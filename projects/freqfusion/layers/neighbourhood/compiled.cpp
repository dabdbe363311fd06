// gather, scatter and correlate on a CPU, see operators.py for what they are.
//
// The image is cut into tiles of source pixels. A tile is copied to memory where channels are
// innermost, in float or double, with zeros beyond the image; all sums are taken there, over
// vectors of channels, and the result is copied to where it belongs. So one loop serves every
// memory format, type, ratio and border, and a call is one parallel region.

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
enum Operation : int32_t { kGather = 1, kScatter = 2, kCorrelate = 4 };

// A tensor (B, C, H, W); strides in elements.
struct Map {
    void* data;
    int64_t stride[4];
    int32_t type;
};

}  // namespace

// The same as in compiled.py.
struct Call {
    Map features, kernels, values, of_features, of_kernels;
    int64_t batch, groups, channels;      // channels of a group
    int64_t height, width;                // of the features, their margin included
    int64_t source_height, source_width;  // without it
    int64_t kernel_size, dilation, margin;
    const int32_t* row_start;     // first output row of each source row, and the number of rows
    const int32_t* column_start;  // the same of columns
    int32_t operation, type, threads;
};

namespace {

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
    static A sum(Vector value) {
        A part[lanes];
        store(part, value);
        for (int half = lanes / 2; half; half /= 2)
            for (int i = 0; i < half; ++i) part[i] += part[i + half];
        return part[0];
    }
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

template <class A>
class Worker {
  public:
    explicit Worker(const Call& call) : call_(call), taps_(call.kernel_size * call.kernel_size) {
        reach_ = call.dilation * (call.kernel_size / 2);
    }

    void run(int64_t image, int64_t group, Range rows, Range columns) {
        const bool gathers = call_.operation & kGather, scatters = call_.operation & kScatter,
                   correlates = call_.operation & kCorrelate;
        // The source pixels whose outputs are looked at: for a scatter all that reach the tile.
        Range centre_rows = rows, centre_columns = columns;
        if (scatters) {
            centre_rows = widened(rows, call_.source_height);
            centre_columns = widened(columns, call_.source_width);
        }
        const Range lines = outputs(call_.row_start, centre_rows);
        const Range places = outputs(call_.column_start, centre_columns);
        const int64_t out_height = call_.row_start[call_.source_height];
        const int64_t out_width = call_.column_start[call_.source_width];
        const Range taps{group * taps_, (group + 1) * taps_};
        if (gathers || scatters) {
            kernels_.shape(lines, places, taps_);
            kernels_.read(call_.kernels, image, taps, out_height, out_width);
        }
        if (correlates) {
            of_kernels_.shape(outputs(call_.row_start, rows), outputs(call_.column_start, columns),
                              taps_);
            of_kernels_.clear();
        }
        const int64_t first = group * call_.channels, end = first + call_.channels;
        for (int64_t c = first; c < end; c += kChunk) {
            const Range channels{c, std::min(c + kChunk, end)};
            const int64_t depth = rounded(channels.size());
            values_.shape(lines, places, depth);
            if (!gathers) values_.read(call_.values, image, channels, out_height, out_width);
            if (gathers || correlates) {
                features_.shape(neighbours(rows), neighbours(columns), depth);
                features_.read(call_.features, image, channels, call_.height, call_.width);
            }
            if (gathers) {
                gather(rows, columns, depth);
                values_.write(call_.values, image, channels, lines, places);
            }
            if (correlates) correlate(rows, columns, depth);
            if (scatters) {
                const Range target_rows = target(rows, call_.source_height, call_.height);
                const Range target_columns = target(columns, call_.source_width, call_.width);
                const Range reached = neighbours(centre_columns);
                of_features_.shape(target_rows,
                                   {std::min(reached.begin, target_columns.begin),
                                    std::max(reached.end, target_columns.end)},
                                   depth);
                of_features_.clear();
                scatter(centre_rows, centre_columns, depth);
                of_features_.write(call_.of_features, image, channels, target_rows, target_columns);
            }
        }
        if (correlates)
            of_kernels_.write(call_.of_kernels, image, taps, of_kernels_.rows, of_kernels_.columns);
    }

  private:
    struct Pixel {
        int32_t row, column;
    };

    static constexpr int64_t kChunk = 256 / sizeof(A);
    static int64_t rounded(int64_t channels) {
        return (channels + Wide<A>::lanes - 1) / Wide<A>::lanes * Wide<A>::lanes;
    }
    static Range outputs(const int32_t* start, Range source) {
        return {start[source.begin], start[source.end]};
    }
    // Of the features, what source pixels read.
    Range neighbours(Range source) const {
        const int64_t begin = source.begin + call_.margin - reach_;
        return {begin, begin + source.size() + 2 * reach_};
    }
    // Of the features, the part that belongs to source pixels: theirs, and the margin beside them.
    Range target(Range source, int64_t source_size, int64_t size) const {
        return {source.begin == 0 ? 0 : source.begin + call_.margin,
                source.end == source_size ? size : source.end + call_.margin};
    }
    // The source pixels whose neighbours lie in the target of the given ones.
    Range widened(Range source, int64_t source_size) const {
        const int64_t more = reach_ + call_.margin;
        return {std::max<int64_t>(source.begin - (source.begin ? reach_ : more), 0),
                std::min(source.end + (source.end < source_size ? reach_ : more), source_size)};
    }

    // Call function(row, column, kernels, values, count) for every source pixel, with the addresses
    // of a few of its output pixels at a time.
    template <int Most, class F>
    void each_cell(Range rows, Range columns, Tile<A>& kernel_tile, F function) {
        for (int64_t y = rows.begin; y < rows.end; ++y)
            for (int64_t x = columns.begin; x < columns.end; ++x) {
                pixels_.clear();
                for (int32_t oy = call_.row_start[y]; oy < call_.row_start[y + 1]; ++oy)
                    for (int32_t ox = call_.column_start[x]; ox < call_.column_start[x + 1]; ++ox)
                        pixels_.push_back({oy, ox});
                in_parts<Most>(pixels_.size(), [&](auto count, int64_t at) {
                    A *kernels[count.value], *values[count.value];
                    for (int o = 0; o < count.value; ++o) {
                        kernels[o] = kernel_tile.at(pixels_[at + o].row, pixels_[at + o].column);
                        values[o] = values_.at(pixels_[at + o].row, pixels_[at + o].column);
                    }
                    function(y, x, kernels, values, count);
                });
            }
    }
    void set_offsets(const Tile<A>& tile) {
        offsets_.clear();
        for (int64_t i = 0; i < call_.kernel_size; ++i)
            for (int64_t j = 0; j < call_.kernel_size; ++j)
                offsets_.push_back((i * tile.columns.size() + j) * call_.dilation * tile.depth);
    }

    void gather(Range rows, Range columns, int64_t depth) {
        set_offsets(features_);
        each_cell<4>(rows, columns, kernels_, [&](int64_t y, int64_t x, A** kernels, A** values,
                                                  auto n) {
            constexpr int count = decltype(n)::value;
            const A* from = features_.at(y + call_.margin - reach_, x + call_.margin - reach_);
            in_parts<kVectors>(depth / Wide<A>::lanes, [&](auto vectors, int64_t at) {
                A* to[count];
                for (int o = 0; o < count; ++o) to[o] = values[o] + at * Wide<A>::lanes;
                gather_cell<A, count, decltype(vectors)::value>(
                    from + at * Wide<A>::lanes, offsets_.data(), taps_, kernels, to);
            });
        });
    }

    void scatter(Range rows, Range columns, int64_t depth) {
        set_offsets(of_features_);
        const Range lines = of_features_.rows;
        each_cell<4>(rows, columns, kernels_, [&](int64_t y, int64_t x, A** kernels, A** values,
                                                  auto n) {
            constexpr int count = decltype(n)::value;
            // The rows of taps that fall into the tile.
            const int64_t top = y + call_.margin - reach_, step = call_.dilation,
                          k = call_.kernel_size;
            int64_t i0 = 0, i1 = k;
            while (i0 < k && top + i0 * step < lines.begin) ++i0;
            while (i1 > i0 && top + (i1 - 1) * step >= lines.end) --i1;
            if (i0 >= i1) return;
            A* to = of_features_.at(top, x + call_.margin - reach_);
            in_parts<kVectors>(depth / Wide<A>::lanes, [&](auto vectors, int64_t at) {
                A* from[count];
                for (int o = 0; o < count; ++o) from[o] = values[o] + at * Wide<A>::lanes;
                scatter_cell<A, count, decltype(vectors)::value>(
                    to + at * Wide<A>::lanes, offsets_.data(), i0 * k, i1 * k, kernels, from);
            });
        });
    }

    void correlate(Range rows, Range columns, int64_t depth) {
        set_offsets(features_);
        each_cell<2>(rows, columns, of_kernels_, [&](int64_t y, int64_t x, A** kernels, A** values,
                                                     auto n) {
            constexpr int count = decltype(n)::value;
            const A* from = features_.at(y + call_.margin - reach_, x + call_.margin - reach_);
            in_parts<4>(taps_, [&](auto taps, int64_t at) {
                A* to[count];
                for (int o = 0; o < count; ++o) to[o] = kernels[o] + at;
                correlate_cell<A, count, decltype(taps)::value>(from, offsets_.data() + at, depth,
                                                                to, values);
            });
        });
    }

    const Call& call_;
    int64_t taps_, reach_;
    Tile<A> features_, kernels_, values_, of_features_, of_kernels_;
    std::vector<int64_t> offsets_;
    std::vector<Pixel> pixels_;
};

// Parts of 0..size that are about as long as wished, and whose number is `count`.
Range part_of(int64_t size, int64_t index, int64_t count) {
    return {size * index / count, size * (index + 1) / count};
}

template <class A>
void run(const Call& call) {
    // About 8 x 128 output pixels, and some tasks for each thread.
    const int64_t out_height = call.row_start[call.source_height];
    const int64_t out_width = call.column_start[call.source_width];
    const int64_t across = std::max<int64_t>(1, (out_width + 64) / 128);
    const int64_t images = call.batch * call.groups;
    const int64_t wished = (4 * call.threads + images * across - 1) / (images * across);
    const int64_t down = std::min(std::max<int64_t>((out_height + 7) / 8, wished), call.source_height);
    const int64_t columns = std::min(across, call.source_width);
    const int64_t tasks = images * down * columns;
#pragma omp parallel num_threads(call.threads) if (tasks > 1)
    {
        Worker<A> worker(call);
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < tasks; ++task) {
            const int64_t tile = task % (down * columns), image = task / (down * columns);
            worker.run(image / call.groups, image % call.groups,
                       part_of(call.source_height, tile / columns, down),
                       part_of(call.source_width, tile % columns, columns));
        }
    }
}

}  // namespace

extern "C" void freqfusion_neighbourhood(const Call* call) {
    if (call->type == kDouble)
        run<double>(*call);
    else
        run<float>(*call);
}
