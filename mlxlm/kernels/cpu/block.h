// A decoder's block, or its first half, as one operation: see op_block.cpp.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include "ops.h"
#include "projection.h"

namespace mlxlm {

// (eps, what is added to the stored weight)
using NormShape = std::optional<std::tuple<float, float>>;

struct AttentionShape {
  int heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 0, cap = 0;
  NormShape q_norm, k_norm;
  bool sinks = false;
  int rope_dims = 0;  // 0 for no rope
  bool traditional = false, has_freqs = false;
  float base = 0;
  LinearShape q, k, v, o;
};

// down(act(gate(x)) * up(x)), or down(act(up(x))) where there is no gate.
struct FeedForwardShape {
  Gate act = Gate::silu;
  bool gated = true;
  LinearShape gate, up, down;
};

// A Mamba 2 mixer: see `MambaStep` for what its sizes mean.
struct MambaShape {
  int heads = 0, head_dim = 0, groups = 0, state = 0, width = 0;
  float least = 0, most = 0;  // bounds of a time step
  bool conv_bias = false, normed = false;
  float eps = 0;
  int norm_groups = 1;
  LinearShape in, out;

  int inner() const { return heads * head_dim; }
  int channels() const { return inner() + 2 * groups * state; }
};

// Chosen experts: a linear router, and two or three linears with an expert axis.
struct ExpertsShape {
  RouteShape route{};
  bool scored = false;  // the router is dense, its logits in float32 become sigmoids, and a bias steers the choice
  LinearShape router;
  Gate act = Gate::silu;
  std::vector<LinearShape> linears;
};

enum class Mixer : int { none, attention, mamba };

// Which parts a block has; the arrays of a call come in the order of `Places`.
struct BlockShape {
  Mixer mixer = Mixer::none;
  NormShape before, after, before_mlp, after_mlp;
  AttentionShape attention;
  MambaShape mamba;
  std::optional<FeedForwardShape> mlp;
  std::optional<ExpertsShape> experts;  // in the MLP's place, or beside it by the same norms

  bool feeds() const { return mlp || experts; }
};

// Where each part's arrays begin among the inputs; -1 for what isn't there.
struct Places {
  int before, q, k, v, q_norm, k_norm, sinks, freqs, o;
  int in, conv, conv_bias, dt_bias, a_log, d, gated_norm, out;
  int after, before_mlp, gate, up, down, router, choice_bias, experts, after_mlp, end;
  explicit Places(const BlockShape& s, int first);
};

// Where the new tokens stand in the cache: the column of the first of them, and the first column that is seen.
struct BlockPlace {
  int start, first;
};

struct BlockCall {
  int start = 0, first = 0;
  int offset = 0;  // position of the first new token, unless there is an array of them
  bool causal = false, has_offsets = false, has_mask = false;
};

using Offset = std::variant<int, mx::array>;
using AnyMask = std::variant<std::monostate, std::string, mx::array>;
using BlockResult = std::tuple<mx::array, mx::array, mx::array>;  // y, keys, values

struct BlockArguments {
  mx::array x;
  std::vector<mx::array> arrays;
  mx::array keys, values;
  BlockPlace place;
  Offset offset;
  AnyMask mask;
};

// The two arrays of a block's memory, or none: keys and values, or the last inputs of a convolution and a state.
using Memory = std::vector<mx::array>;

// Whether the kernels can do a block with these weights for activations of `type`; with this memory.
bool fits_weights(const BlockShape& s, const Places& at, const std::vector<mx::array>& in, mx::Dtype type, int dim, int Dv);
bool fits_cache(const BlockShape& s, const mx::array& x, const mx::array& keys, const mx::array& values, BlockPlace p);
bool fits_memory(const BlockShape& s, const mx::array& x, const Memory& memory, BlockPlace p);
bool fits_norm(const NormShape& s, const std::vector<mx::array>& in, int place, int size, mx::Dtype type);
// Whether the arrays that a mixer reads as numbers have their sizes.
bool has_numbers(const MambaShape& s, const Places& at, const std::vector<mx::array>& in);
bool fits_mamba(const MambaShape& s, const Places& at, const std::vector<mx::array>& in, mx::Dtype type, int dim);
// What a call says of positions and masks; arrays go behind the other inputs. False where they are of no use.
bool read_offset(const mx::array& x, const Offset& offset, BlockCall& call, std::vector<mx::array>& inputs);
bool read_mask(const BlockShape& s, const mx::array& x, const AnyMask& mask, BlockCall& call, std::vector<mx::array>& inputs);

// The result with the new tokens in the cache's buffers, or nothing where the kernels can't do it.
std::optional<BlockResult> op_block(const std::shared_ptr<const BlockShape>& shape, const BlockArguments& a);

class Stack;

// Of one call: for each block its memory, the place in that and the mask (no masks: none for any).
struct StackArguments {
  mx::array x;
  std::vector<Memory> memories;
  std::vector<BlockPlace> places;
  Offset offset;
  std::vector<AnyMask> masks;
};
using StackResult = std::pair<mx::array, std::vector<Memory>>;

// Blocks that follow one another, with weights that are there and stay as they are, to be run as one operation. `arrays`
// come as `Places` from 0 on has them. Nothing where one isn't there yet, or may be asked for gradients.
std::shared_ptr<const Stack> make_stack(const std::vector<std::shared_ptr<const BlockShape>>& shapes,
                                        const std::vector<std::vector<mx::array>>& arrays);
std::optional<StackResult> op_stack(const std::shared_ptr<const Stack>& stack, const StackArguments& a);

}  // namespace mlxlm
