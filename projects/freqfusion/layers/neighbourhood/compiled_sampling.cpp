// Weighted sums of bilinear samples of maps, at places of each query and head, on a CPU.
//
// A task copies the channels of one head, or some of them, to memory where they are innermost, in
// float or double. The four corners of a query's samples are then the neighbours of compiled.h, with
// offsets that are computed instead of fixed. Only tasks that write apart from each other run at the
// same time, so that results do not depend on the threads.

#include <cmath>
#include <limits>

#include "compiled.h"

// Numbers of samples: strides of image, line and place of the query, head, sample and axis.
struct Samples {
    void* data;
    int64_t stride[6];
};

// The same as in compiled_sampling.py.
struct SamplingCall {
    Map maps, values;  // values: what is read for each query, or its gradient
    Samples locations, weights, of_locations, of_weights;  // none: without data
    int64_t batch, heads, channels;  // channels of a head
    int64_t height, width;           // of the maps; of several, one row of all pixels
    int64_t lines, places;           // queries
    int64_t levels, points;          // samples of a query and head in each level
    const int64_t* sizes;            // height and width of each level
    int32_t operation, type, threads;
    int32_t is_lattice;  // locations are offsets from a lattice of lines x places, border repeated
};

namespace {

// Channels that are sampled at a time.
template <class A>
constexpr int64_t kChunk = 256 / sizeof(A);

enum SamplingOperation : int32_t { kRead, kSpread, kDifferentiate };

// A pair of neighbouring pixels on one axis, what each counts, and the derivatives of that.
template <class A>
struct Pair {
    int64_t pixel[2];
    A weight[2], slope[2];

    static Pair of(A position, int64_t size, bool repeats_border) {
        Pair pair;
        const A last = A(size - 1);
        bool moves = true;
        if (repeats_border) {
            moves = position > 0 && position < last;
            position = std::min(std::max(position, A(0)), last);
        }
        // Nothing is lost beyond, and pixels are small numbers.
        position = std::min(std::max(position, A(-2)), last + 2);
        const A first = std::floor(position);
        for (int i = 0; i < 2; ++i) {
            const int64_t pixel = int64_t(first) + i;
            const bool inside = pixel >= 0 && pixel < size;
            pair.pixel[i] = inside ? pixel : pixel < 0 ? 0 : size - 1;
            pair.weight[i] = inside ? (i ? position - first : 1 - (position - first)) : A(0);
            pair.slope[i] = inside && moves ? A(i ? 1 : -1) : A(0);
        }
        return pair;
    }
};

template <class A, int Operation>
class Sampler {
  public:
    explicit Sampler(const SamplingCall& call) : call_(call), samples_(call.levels * call.points) {
        offset_.resize(4 * samples_);
        for (auto* numbers : {&weight_, &across_, &down_, &dot_}) numbers->resize(4 * samples_);
    }

    void run(int64_t image, int64_t head, Range part, Range lines) {
        const Range rows{0, call_.height}, columns{0, call_.width};
        for (int64_t c = part.begin; c < part.end; c += kChunk<A>) {
            const int64_t first = head * call_.channels + c;
            const Range channels{first, first + std::min(kChunk<A>, part.end - c)};
            plane_.shape(rows, columns, rounded<A>(channels.size()));
            if (Operation == kSpread)
                plane_.clear();
            else
                plane_.read(call_.maps, image, channels, call_.height, call_.width);
            // Few enough to stay in the cache.
            constexpr int64_t step = 128;
            for (int64_t y = lines.begin; y < lines.end; ++y)
                for (int64_t x = 0; x < call_.places; x += step)
                    block(image, head, channels, y, {x, std::min(x + step, call_.places)});
            if (Operation == kSpread) plane_.write(call_.maps, image, channels, rows, columns);
        }
    }

  private:
    void block(int64_t image, int64_t head, Range channels, int64_t y, Range places) {
        const int64_t depth = plane_.depth;
        values_.shape({y, y + 1}, places, depth);
        if (Operation != kRead)
            values_.read(call_.values, image, channels, call_.lines, call_.places);
        const int taps = int(4 * samples_);
        for (int64_t x = places.begin; x < places.end; ++x) {
            locate(image, y, x, head);
            A* value = values_.at(y, x);
            const A* weights = weight_.data();
            if (Operation == kDifferentiate) {
                std::fill(dot_.begin(), dot_.end(), A(0));
                for (int t = 0; t < taps; t += 4) {
                    A* dots = dot_.data() + t;
                    correlate_cell<A, 1, 4>(plane_.data, offset_.data() + t, depth, &dots, &value);
                }
                differentiate(image, y, x, head);
                continue;
            }
            in_parts<kVectors>(depth / Wide<A>::lanes, [&](auto vectors, int64_t at) {
                A *plane = plane_.data + at * Wide<A>::lanes, *to = value + at * Wide<A>::lanes;
                if (Operation == kRead)
                    gather_cell<A, 1, decltype(vectors)::value>(plane, offset_.data(), taps,
                                                                &weights, &to);
                else
                    scatter_cell<A, 1, decltype(vectors)::value>(plane, offset_.data(), 0, taps,
                                                                 &weights, &to);
            });
        }
        if (Operation == kRead)
            values_.write(call_.values, image, channels, values_.rows, places);
    }

    A& number(const Samples& of, int64_t image, int64_t y, int64_t x, int64_t head, int64_t sample,
              int axis = 0) const {
        const int64_t* s = of.stride;
        return static_cast<A*>(of.data)[image * s[0] + y * s[1] + x * s[2] + head * s[3] +
                                        sample * s[4] + axis * s[5]];
    }
    // Pixels of a level for each unit of a location.
    A unit(const int64_t* size, int axis) const {
        const int64_t cells = axis ? call_.lines : call_.places;
        return call_.is_lattice ? A(size[1 - axis]) / A(cells) : A(size[1 - axis]);
    }

    // Find the corners of all samples of a query: where they are in the plane, what they count, and
    // the derivatives of that for a step across and down. A sample that is nowhere is NaN; no
    // gradient comes from it.
    void locate(int64_t image, int64_t y, int64_t x, int64_t head) {
        int64_t start = 0;
        for (int64_t level = 0; level < call_.levels; ++level) {
            const int64_t* size = call_.sizes + 2 * level;
            const A wide = unit(size, 0), high = unit(size, 1);
            for (int64_t s = level * call_.points; s < (level + 1) * call_.points; ++s) {
                const A u = number(call_.locations, image, y, x, head, s, 0),
                        v = number(call_.locations, image, y, x, head, s, 1);
                const A weight = call_.weights.data ? number(call_.weights, image, y, x, head, s) : 1;
                const bool exists = std::isfinite(u) && std::isfinite(v);
                const A left = call_.is_lattice ? x + A(0.5) : 0, top = call_.is_lattice ? y + A(0.5) : 0;
                const auto across = Pair<A>::of(exists ? (u + left) * wide - A(0.5) : 0, size[1],
                                                call_.is_lattice);
                const auto down = Pair<A>::of(exists ? (v + top) * high - A(0.5) : 0, size[0],
                                              call_.is_lattice);
                const A lost = Operation == kSpread ? 0 : std::numeric_limits<A>::quiet_NaN();
                for (int i = 0; i < 4; ++i) {
                    const int64_t t = 4 * s + i, a = i % 2, d = i / 2;
                    offset_[t] = (start + down.pixel[d] * size[1] + across.pixel[a]) * plane_.depth;
                    weight_[t] = exists ? across.weight[a] * down.weight[d] : lost;
                    if (Operation != kDifferentiate) {
                        weight_[t] *= weight;
                        continue;
                    }
                    across_[t] = exists ? across.slope[a] * down.weight[d] * weight * wide : 0;
                    down_[t] = exists ? across.weight[a] * down.slope[d] * weight * high : 0;
                }
            }
            start += size[0] * size[1];
        }
    }

    // Add what the dot products of the corners with the query's gradient are to those of its numbers.
    void differentiate(int64_t image, int64_t y, int64_t x, int64_t head) {
        for (int64_t s = 0; s < samples_; ++s) {
            A across = 0, down = 0, weight = 0;
            for (int64_t t = 4 * s; t < 4 * s + 4; ++t) {
                across += across_[t] * dot_[t];
                down += down_[t] * dot_[t];
                weight += weight_[t] * dot_[t];
            }
            number(call_.of_locations, image, y, x, head, s, 0) += across;
            number(call_.of_locations, image, y, x, head, s, 1) += down;
            if (call_.of_weights.data) number(call_.of_weights, image, y, x, head, s) += weight;
        }
    }

    const SamplingCall& call_;
    int64_t samples_;
    Tile<A> plane_, values_;
    std::vector<int64_t> offset_;
    std::vector<A> weight_, across_, down_, dot_;
};

template <class A, int Operation>
void run(const SamplingCall& call) {
    // A head is cut into channels, or into queries where these share a result, as the threads ask.
    const bool by_queries = Operation == kDifferentiate;
    const int64_t images = call.batch * call.heads;
    const int64_t wished = (2 * call.threads + images - 1) / images;
    const int64_t chunks = (call.channels + kChunk<A> - 1) / kChunk<A>;
    const int64_t vectors = rounded<A>(call.channels) / Wide<A>::lanes;
    const int64_t parts = by_queries ? std::min(wished, call.lines)
                                     : std::min(std::max(wished, chunks), vectors);
    const int64_t tasks = images * parts;
    const auto cut = [&](int64_t size, int64_t part, bool is_cut) {
        return is_cut ? Range{size * part / parts, size * (part + 1) / parts} : Range{0, size};
    };
#pragma omp parallel num_threads(call.threads) if (tasks > 1)
    {
        Sampler<A, Operation> sampler(call);
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < tasks; ++task) {
            const int64_t head = task / parts, part = task % parts;
            sampler.run(head / call.heads, head % call.heads, cut(call.channels, part, !by_queries),
                        cut(call.lines, part, by_queries));
        }
    }
}

template <class A>
void run(const SamplingCall& call) {
    switch (call.operation) {
        case kRead: return run<A, kRead>(call);
        case kSpread: return run<A, kSpread>(call);
        default: return run<A, kDifferentiate>(call);
    }
}

}  // namespace

extern "C" void freqfusion_sampling(const SamplingCall* call) {
    if (call->type == kDouble)
        run<double>(*call);
    else
        run<float>(*call);
}
