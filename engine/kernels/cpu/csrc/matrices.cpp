// Chooses the code for a weight format.
#include "matrices.h"

#include "dense.h"
#include "integer.h"

namespace dsctl {

void linear(const Matrix& w, Operand x, int64_t M, Operand y, int threads) {
    switch (w.kind) {
        case F32: return linear<Dense<float>>(w, x, M, y, threads);
        case BF16: return linear<Dense<bf16>>(w, x, M, y, threads);
        case INT8: return linear<Int8>(w, x, M, y, threads);
        case INT4: return linear<Int4>(w, x, M, y, threads);
    }
    throw BadFormat{};
}

const void* prepare(const Matrix& w, Operand x, int64_t M, int threads) {
    switch (w.kind) {
        case F32: return prepare<Dense<float>>(w, x, M, threads).base;
        case BF16: return prepare<Dense<bf16>>(w, x, M, threads).base;
        case INT8: return prepare<Int8>(w, x, M, threads).base;
        case INT4: return prepare<Int4>(w, x, M, threads).base;
    }
    throw BadFormat{};
}

void multiply(const Matrix& w, const void* prepared, int64_t M, int64_t first, int64_t last, Operand y) {
    switch (w.kind) {
        case F32: return columns<Dense<float>>(w, 0, {prepared, w.K}, {0, M}, {first, last}, y);
        case BF16: return columns<Dense<bf16>>(w, 0, {prepared, w.K}, {0, M}, {first, last}, y);
        case INT8: return columns<Int8>(w, 0, {prepared, w.K}, {0, M}, {first, last}, y);
        case INT4: return columns<Int4>(w, 0, {prepared, w.K}, {0, M}, {first, last}, y);
    }
}

void experts(const Matrix& gate, const Matrix& up, const Matrix& down, const Routing& r) {
    if (gate.kind == up.kind) switch (gate.kind * 4 + down.kind) {
            case F32 * 4 + F32: return experts<Dense<float>, Dense<float>>(gate, up, down, r);
            case BF16 * 4 + BF16: return experts<Dense<bf16>, Dense<bf16>>(gate, up, down, r);
            case INT8 * 4 + INT8: return experts<Int8, Int8>(gate, up, down, r);
            case INT4 * 4 + INT4: return experts<Int4, Int4>(gate, up, down, r);
            case INT4 * 4 + INT8: return experts<Int4, Int8>(gate, up, down, r);
        }
    throw BadFormat{};
}

}  // namespace dsctl
