// gather, scatter and correlate on a CPU, see operators.py for what they are.
//
// The image is cut into tiles of source pixels. A tile is copied to memory where channels are
// innermost, in float or double, with zeros beyond the image; all sums are taken there, over
// vectors of channels, and the result is copied to where it belongs. So one loop serves every
// memory format, type, ratio and border, and a call is one parallel region.

#include "compiled.h"

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

enum Operation : int32_t { kGather = 1, kScatter = 2, kCorrelate = 4 };

// Whether channels are innermost. Whole pixels are copied then, else whole lines: a tile has the same
// size with few channels on long lines or many on short ones, and that is how long the copies take.
bool is_last(const Call& call) { return call.values.stride[1] == 1; }

template <class A>
class Worker {
  public:
    explicit Worker(const Call& call) : call_(call), taps_(call.kernel_size * call.kernel_size) {
        reach_ = call.dilation * (call.kernel_size / 2);
        chunk_ = (is_last(call) ? 512 : 128) / sizeof(A);
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
        for (int64_t c = first; c < end; c += chunk_) {
            const Range channels{c, std::min(c + chunk_, end)};
            const int64_t depth = rounded<A>(channels.size());
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
    int64_t taps_, reach_, chunk_;
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
    // About 8 x 128 output pixels, or 8 x 32, and some tasks for each thread.
    const int64_t out_height = call.row_start[call.source_height];
    const int64_t out_width = call.column_start[call.source_width];
    const int64_t wide = is_last(call) ? 32 : 128;
    const int64_t across = std::max<int64_t>(1, (out_width + wide / 2) / wide);
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
