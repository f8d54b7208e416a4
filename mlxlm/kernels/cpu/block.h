// A decoder's block, or its first half, as one operation for a few positions: see op_block.cpp.
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

struct FeedForwardShape {
  Gate act = Gate::silu;
  LinearShape gate, up, down;
};

// Which parts a block has; the arrays of a call come in the order of `Places`.
struct BlockShape {
  NormShape before, after, before_mlp, after_mlp;
  AttentionShape attention;
  std::optional<FeedForwardShape> mlp;
};

// Where each part's arrays begin among the inputs; -1 for what isn't there.
struct Places {
  int before, q, k, v, q_norm, k_norm, sinks, freqs, o, after, before_mlp, gate, up, down, after_mlp, end;
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

// Whether the kernels can do a block with these weights for activations of `type`; with this cache.
bool fits_weights(const BlockShape& s, const Places& at, const std::vector<mx::array>& in, mx::Dtype type, int dim, int Dv);
bool fits_cache(const BlockShape& s, const mx::array& x, const mx::array& keys, const mx::array& values, BlockPlace p);
// What a call says of positions and masks; arrays go behind the other inputs. False where they are of no use.
bool read_offset(const mx::array& x, const Offset& offset, BlockCall& call, std::vector<mx::array>& inputs);
bool read_mask(const BlockShape& s, const mx::array& x, const AnyMask& mask, BlockCall& call, std::vector<mx::array>& inputs);

// The result with the new tokens in the cache's buffers, or nothing where the kernels can't do it.
std::optional<BlockResult> op_block(const std::shared_ptr<const BlockShape>& shape, const BlockArguments& a);

class Stack;

// Of one call: for each block the cache's buffers, the place in them and the mask (no masks: none for any).
struct StackArguments {
  mx::array x;
  std::vector<mx::array> keys, values;
  std::vector<BlockPlace> places;
  Offset offset;
  std::vector<AnyMask> masks;
};
using StackResult = std::tuple<mx::array, std::vector<mx::array>, std::vector<mx::array>>;  // y, keys, values

// Blocks that follow one another, with weights that are there and stay as they are, to be run as one operation. `arrays`
// come as `Places` from 0 on has them. Nothing where one isn't there yet, or may be asked for gradients.
std::shared_ptr<const Stack> make_stack(const std::vector<std::shared_ptr<const BlockShape>>& shapes,
                                        const std::vector<std::vector<mx::array>>& arrays);
std::optional<StackResult> op_stack(const std::shared_ptr<const Stack>& stack, const StackArguments& a);

}  // namespace mlxlm
