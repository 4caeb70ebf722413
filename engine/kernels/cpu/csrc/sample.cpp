// Looks for the winners of a draw without making the noise of ids that cannot win.
#include "sample.h"

#include <algorithm>
#include <cmath>

namespace dsctl {
namespace {

constexpr int COUNTERS = 16, IDS = 4 * COUNTERS;  // ids looked at together
constexpr int ROUNDS = 10;
constexpr double LN2 = 0.6931471805599453;
constexpr double UNSURE = 1e-9;  // of a sum, relative: far above what two libraries' logarithms differ by

// Words of COUNTERS counters from `first` on: words[4 · counter + lane].
void noise(const Draw& d, int64_t first, uint32_t* words) {
    uint64_t c0[COUNTERS], c1[COUNTERS], c2[COUNTERS], c3[COUNTERS];
    uint64_t k0 = d.seed & 0xffffffffu, k1 = d.seed >> 32;
    for (int i = 0; i < COUNTERS; ++i) {
        c0[i] = uint32_t(first + i), c1[i] = d.position & 0xffffffffu;
        c2[i] = uint32_t(d.choice), c3[i] = d.position >> 32;
    }
    for (int round = 0; round < ROUNDS; ++round) {
        for (int i = 0; i < COUNTERS; ++i) {
            uint64_t p0 = uint64_t(uint32_t(c0[i])) * 0xD2511F53u, p1 = uint64_t(uint32_t(c2[i])) * 0xCD9E8D57u;
            uint64_t a = (p1 >> 32) ^ c1[i] ^ k0, c = (p0 >> 32) ^ c3[i] ^ k1;
            c0[i] = a, c1[i] = p1 & 0xffffffffu, c2[i] = c, c3[i] = p0 & 0xffffffffu;
        }
        k0 = (k0 + 0x9E3779B9u) & 0xffffffffu, k1 = (k1 + 0xBB67AE85u) & 0xffffffffu;
    }
    for (int i = 0; i < COUNTERS; ++i) {
        words[4 * i] = uint32_t(c0[i]), words[4 * i + 1] = uint32_t(c1[i]);
        words[4 * i + 2] = uint32_t(c2[i]), words[4 * i + 3] = uint32_t(c3[i]);
    }
}

double gumbel(uint32_t word) { return -std::log(-std::log((double(word) + 0.5) * 0x1p-32)); }

// The least word whose noise can reach `wanted`; more than a word when none can. With u = (word + ½) / 2³²,
// −log(−log u) ≤ −log(1 − u), and log2(1 − u) is known from the leading ones of the word.
uint64_t least_word(double wanted) {
    double ones = std::ceil(wanted / LN2) - 1;  // leading ones that a word must have
    if (!(ones > 0)) return 0;
    if (ones > 32) return uint64_t(1) << 32;
    return (uint64_t(1) << 32) - (uint64_t(1) << (32 - int(ones)));
}

struct Search {
    const Draw& d;
    double best;  // the largest sum found
    int64_t found = 0;

    double lowered(double sum) const { return sum - UNSURE * (1 + std::fabs(sum)); }

    void forget() {  // those that a better one has beaten; their sums are worth making again, so few are they
        int64_t left = 0;
        for (int64_t i = 0; i < found; ++i)
            if (sum(d.ids[i]) >= lowered(best)) d.ids[left++] = d.ids[i];
        found = left;
    }

    double sum(int64_t id) const {
        uint32_t words[IDS];
        noise(d, id / 4, words);
        return double(d.logits[id]) / d.temperature + gumbel(words[id % 4]);
    }

    bool look(int64_t first) {  // at IDS ids; false when there is no room
        int count = int(std::min<int64_t>(IDS, d.size - first));
        float top = d.logits[first];
        for (int i = 1; i < count; ++i) top = std::max(top, d.logits[first + i]);
        uint64_t least = least_word(lowered(best) - double(top) / d.temperature - UNSURE);
        if (least >> 32) return true;
        uint32_t words[IDS], highest = 0;
        noise(d, first / 4, words);
        for (int i = 0; i < count; ++i) highest = std::max(highest, words[i]);
        if (highest < least) return true;
        for (int i = 0; i < count; ++i) {
            if (words[i] < least) continue;
            double value = double(d.logits[first + i]) / d.temperature + gumbel(words[i]);
            if (!(value >= lowered(best))) continue;
            if (found == d.most) forget();
            if (found == d.most) return false;
            d.ids[found++] = first + i;
            best = std::max(best, value);
        }
        return true;
    }
};

}  // namespace

int64_t contenders(const Draw& d) {
    int64_t lead = std::max_element(d.logits, d.logits + d.size) - d.logits;
    Search search{d, 0};
    search.best = search.sum(lead);
    if (!std::isfinite(search.best)) return -1;
    for (int64_t first = 0; first < d.size; first += IDS)
        if (!search.look(first)) return -1;
    search.forget();
    return search.found;
}

}  // namespace dsctl
