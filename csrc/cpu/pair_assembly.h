// The loops of pair_kernels.h for AVX-512 in assembly: g++ 12 has no register left, spills five sums around each step and takes the additions
// and multiply-adds in an order of its own (one core, 10 pixels by 2 panels: 335 GFLOP/s, in assembly 355). Macros of the assembler
// in place of strings for each tile. Included by pair_kernels.h alone.
//
// rsi: pixel 0, rdi: pixel 5, rax: bytes from pixel to pixel, rbx: 3 rax; rcx: full panels, rdx: bytes from panel to panel, r8: half panel;
// r9: runs; r15: plain channels and, from bit 32 on, short runs, 0 or 1; r10: a counter; r11: weights to fetch ahead, r12: bytes to go on by in
// two steps, r14: bytes to the next panel; r13: a PairEnd. At the end rsi: the sums aside; rdi, rcx: an output and a residual, r8: the pixels' offsets in them,
// rbx and rdx: of each pixel the sum of x1 x2 and the scale, rax: products and bias of the outputs.
// P pixels by V vectors of outputs, the last one of half a panel where H is 1; D: see pair_step. zmm0 ..: the sums, P * V; from Z on the weights of
// channels k, k + D and k + 2 D, V of each; x1, x2, x3, and two temporaries.
asm(R"(
.altmacro

.macro regnet_fetch p, offset, z
  .if \p == 0
    vbroadcastss \offset(%rsi), %zmm\z
  .elseif \p == 1
    vbroadcastss \offset(%rsi,%rax), %zmm\z
  .elseif \p == 2
    vbroadcastss \offset(%rsi,%rax,2), %zmm\z
  .elseif \p == 3
    vbroadcastss \offset(%rsi,%rbx), %zmm\z
  .elseif \p == 4
    vbroadcastss \offset(%rsi,%rax,4), %zmm\z
  .elseif \p == 5
    vbroadcastss \offset(%rdi), %zmm\z
  .elseif \p == 6
    vbroadcastss \offset(%rdi,%rax), %zmm\z
  .elseif \p == 7
    vbroadcastss \offset(%rdi,%rax,2), %zmm\z
  .elseif \p == 8
    vbroadcastss \offset(%rdi,%rbx), %zmm\z
  .else
    vbroadcastss \offset(%rdi,%rax,4), %zmm\z
  .endif
.endm

.macro regnet_weights v, V, H, row, z
  .if \H == 1 && \v == \V - 1
    vmovups 32*(\row)(%r8), %ymm\z
  .elseif \v == 0
    vmovups 64*(\row)(%rcx), %zmm\z
  .elseif \v == 1
    vmovups 64*(\row)(%rcx,%rdx), %zmm\z
  .else
    vmovups 64*(\row)(%rcx,%rdx,2), %zmm\z
  .endif
.endm

.macro regnet_fma a, b, sum
  vfmadd231ps %zmm\a, %zmm\b, %zmm\sum
.endm

.macro regnet_plus x1, x2, w1, w2, t1, t2
  vaddps %zmm\w2, %zmm\x1, %zmm\t1
  vaddps %zmm\w1, %zmm\x2, %zmm\t2
.endm

.macro regnet_minus x1, x2, w1, w2, t1, t2
  vsubps %zmm\w2, %zmm\x1, %zmm\t1
  vsubps %zmm\x2, %zmm\w1, %zmm\t2
.endm

.macro regnet_pair_step P, V, H, D, Z, minus
  .set regnet_v, 0
  .rept \V
    regnet_weights %regnet_v, \V, \H, %\minus, %(\Z+regnet_v)
    regnet_weights %regnet_v, \V, \H, %(\minus+\D), %(\Z+\V+regnet_v)
    regnet_weights %regnet_v, \V, \H, %(\minus+2*\D), %(\Z+2*\V+regnet_v)
    .set regnet_v, regnet_v+1
  .endr
  .set regnet_p, 0
  .rept \P
    regnet_fetch %regnet_p, %(4*\minus), %(\Z+3*\V)
    regnet_fetch %regnet_p, %(4*\minus+4*\D), %(\Z+3*\V+1)
    regnet_fetch %regnet_p, %(4*\minus+8*\D), %(\Z+3*\V+2)
    .set regnet_v, 0
    .rept \V
      .if \minus
        regnet_minus %(\Z+3*\V), %(\Z+3*\V+1), %(\Z+regnet_v), %(\Z+\V+regnet_v), %(\Z+3*\V+3), %(\Z+3*\V+4)
      .else
        regnet_plus %(\Z+3*\V), %(\Z+3*\V+1), %(\Z+regnet_v), %(\Z+\V+regnet_v), %(\Z+3*\V+3), %(\Z+3*\V+4)
      .endif
      regnet_fma %(\Z+3*\V+2), %(\Z+2*\V+regnet_v), %(regnet_p*\V+regnet_v)
      regnet_fma %(\Z+3*\V+3), %(\Z+3*\V+4), %(regnet_p*\V+regnet_v)
      .set regnet_v, regnet_v+1
    .endr
    .set regnet_p, regnet_p+1
  .endr
.endm

.macro regnet_zero z
  vpxord %zmm\z, %zmm\z, %zmm\z
.endm

.macro regnet_store offset, z
  vmovups %zmm\z, \offset(%rsi)
.endm

.macro regnet_add offset, z
  vaddps \offset(%rsi), %zmm\z, %zmm\z
.endm

.macro regnet_load v, V, H, base, z
  .if \H == 1 && \v == \V - 1
    vmovups 64*(\v)(%\base), %ymm\z
  .else
    vmovups 64*(\v)(%\base), %zmm\z
  .endif
.endm

.macro regnet_scale p, start, bias, z
  vsubps %zmm\start, %zmm\z, %zmm\z
  vsubps 4*(\p)(%rbx){1to16}, %zmm\z, %zmm\z
  vfmadd132ps 4*(\p)(%rdx){1to16}, %zmm\bias, %zmm\z
.endm

.macro regnet_add_residual v, V, H, z, t
  .if \H == 1 && \v == \V - 1
    vmovups 64*(\v)(%rcx), %ymm\t
    vaddps %zmm\t, %zmm\z, %zmm\z
  .else
    vaddps 64*(\v)(%rcx), %zmm\z, %zmm\z
  .endif
.endm

.macro regnet_put v, V, H, z, floor
  vmaxps %zmm\z, %zmm\floor, %zmm\z
  .if \H == 1 && \v == \V - 1
    vmovups %ymm\z, 64*(\v)(%rdi)
  .else
    vmovups %zmm\z, 64*(\v)(%rdi)
  .endif
.endm

.macro regnet_at p, base, address
  mov 8*(\p)(%r8), %\address
  lea (%\base,%\address,4), %\address
.endm

.macro regnet_two_steps P, V, H, D, Z
  regnet_pair_step \P, \V, \H, \D, \Z, 0
  prefetcht0 (%r11)
  prefetcht0 (%r11,%r14)
  regnet_pair_step \P, \V, \H, \D, \Z, 1
  prefetcht0 64(%r11)
  prefetcht0 64(%r11,%r14)
  add %r12, %r11
  regnet_go_on 2, \H
.endm

.macro regnet_go_on steps, H
  add $4*\steps, %rsi
  add $4*\steps, %rdi
  add $64*\steps, %rcx
  .if \H
    add $32*\steps, %r8
  .endif
.endm

.macro regnet_plain_step P, V, H, Z
  .set regnet_v, 0
  .rept \V
    regnet_weights %regnet_v, \V, \H, 0, %(\Z+regnet_v)
    .set regnet_v, regnet_v+1
  .endr
  .set regnet_p, 0
  .rept \P
    regnet_fetch %regnet_p, 0, %(\Z+\V)
    .set regnet_v, 0
    .rept \V
      regnet_fma %(\Z+\V), %(\Z+regnet_v), %(regnet_p*\V+regnet_v)
      .set regnet_v, regnet_v+1
    .endr
    .set regnet_p, regnet_p+1
  .endr
  regnet_go_on 1, \H
.endm

.macro regnet_end P, V, H, Z
  mov 8(%r13), %rax
  mov 16(%r13), %r9
  mov 24(%r13), %rbx
  mov 32(%r13), %rdx
  mov 40(%r13), %r10
  mov 48(%r13), %r15
  mov 56(%r13), %r8
  vbroadcastss 64(%r13), %zmm31
  .set regnet_v, 0
  .rept \V
    regnet_load %regnet_v, \V, \H, rax, %(\Z+regnet_v)
    regnet_load %regnet_v, \V, \H, r9, %(\Z+\V+regnet_v)
    .set regnet_v, regnet_v+1
  .endr
  .set regnet_p, 0
  .rept \P
    .set regnet_v, 0
    .rept \V
      regnet_scale %regnet_p, %(\Z+regnet_v), %(\Z+\V+regnet_v), %(regnet_p*\V+regnet_v)
      .set regnet_v, regnet_v+1
    .endr
    .set regnet_p, regnet_p+1
  .endr
  test %r15, %r15
  jz 7f
  .set regnet_p, 0
  .rept \P
    regnet_at %regnet_p, r15, rcx
    .set regnet_v, 0
    .rept \V
      regnet_add_residual %regnet_v, \V, \H, %(regnet_p*\V+regnet_v), 30
      .set regnet_v, regnet_v+1
    .endr
    .set regnet_p, regnet_p+1
  .endr
7:
  .set regnet_p, 0
  .rept \P
    regnet_at %regnet_p, r10, rdi
    .set regnet_v, 0
    .rept \V
      regnet_put %regnet_v, \V, \H, %(regnet_p*\V+regnet_v), 31
      .set regnet_v, regnet_v+1
    .endr
    .set regnet_p, regnet_p+1
  .endr
.endm

.macro regnet_pairs P, V, H, Z, adds, ends
  .set regnet_i, 0
  .rept \P*\V
    regnet_zero %regnet_i
    .set regnet_i, regnet_i+1
  .endr
1:
  mov $8, %r10
2:
  regnet_two_steps \P, \V, \H, 16, \Z
  dec %r10
  jnz 2b
  regnet_go_on 32, \H
  dec %r9
  jnz 1b
  bt $32, %r15
  jnc 4f
  mov $4, %r10
3:
  regnet_two_steps \P, \V, \H, 8, \Z
  dec %r10
  jnz 3b
  regnet_go_on 16, \H
4:
  test %r15d, %r15d
  jz 6f
5:
  regnet_plain_step \P, \V, \H, \Z
  dec %r15d
  jnz 5b
6:
  mov (%r13), %rsi
  .if \adds
    .set regnet_i, 0
    .rept \P*\V
      regnet_add %(64*regnet_i), %regnet_i
      .set regnet_i, regnet_i+1
    .endr
  .endif
  .if \ends
    regnet_end \P, \V, \H, \Z
  .else
    .set regnet_i, 0
    .rept \P*\V
      regnet_store %(64*regnet_i), %regnet_i
      .set regnet_i, regnet_i+1
    .endr
  .endif
.endm

.noaltmacro
)");

// The sums of a tile, t.runs runs and so on from x, pixel 0, on, where `adds` with what is in end.sums -> end.sums, or where
// `ends` -> the outputs. Moves `ahead` on.
template <bool adds, bool ends, int P, int F, int H>
REGNET_INLINE void pairs_assembly(const PairTiles& t, const uint32_t* x, const PairEnd& end, const char*& ahead) {
  constexpr int V = vectors(F, H), kFirstWeights = V == 3 ? 18 : 20;
  static_assert(P * V <= kFirstWeights && kFirstWeights + 3 * V + 5 <= 32 && V >= 2 && P <= 10);
  static_assert(kPairRun == 48 && kPairTail == 24);
  static_assert(offsetof(PairEnd, y_offset) == 56 && offsetof(PairEnd, floor) == 64);
  // All is read before the first register is set: a call in between, as sanitizers make for each read, would change r8, r9 and r11.
  const uint32_t *w = t.w, *const wh = t.wh;
  const char *x5 = (const char*)x + 5 * t.stride, *const next = ahead;
  int64_t stride = t.stride, stride3 = 3 * stride, panel_bytes = t.panel_words * 4;
  const int64_t all_runs = t.runs, tail_and_plain = t.tail << 32 | t.plain;
  const int64_t next_step = t.ahead_step, next_panel = t.ahead_panel;
  register const char* to_fetch asm("r11") = next;
  register int64_t fetch_step asm("r12") = next_step;
  register int64_t fetch_panel asm("r14") = next_panel;
  register const PairEnd* to_end asm("r13") = &end;
  register const uint32_t* half asm("r8") = wh;
  register int64_t runs asm("r9") = all_runs;
  register int64_t rest asm("r15") = tail_and_plain;
  asm volatile(".altmacro\n\tregnet_pairs %c[p], %c[v], %c[h], %c[z], %c[adds], %c[ends]\n\t.noaltmacro"
               : "+S"(x), "+D"(x5), "+c"(w), "+r"(half), "+r"(runs), "+r"(rest), "+r"(to_fetch), "+a"(stride), "+b"(stride3), "+d"(panel_bytes)
               : "r"(fetch_step), "r"(fetch_panel), "r"(to_end), [p] "i"(P), [v] "i"(V),
                 [h] "i"(H), [z] "i"(kFirstWeights), [adds] "i"(adds ? 1 : 0), [ends] "i"(ends ? 1 : 0)
               : "memory", "cc", "r10", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
                 "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26",
                 "xmm27", "xmm28", "xmm29", "xmm30", "xmm31");
  ahead = to_fetch;
}
