// A decoder's block, or its first half, as one operation for a few positions: see op_block.cpp.
#pragma once
#include <optional>
#include <tuple>
#include <vector>

#include "ops.h"
#include "projection.h"

namespace mlxlm {

// (eps, what is added to the stored weight)
using NormShape = std::optional<std::tuple<float, float>>;

struct AttentionShape {
  int heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 0;
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

// Where the new tokens stand in the cache and what may be seen.
struct BlockCall {
  int start, first;  // column of the first new token; first column that is seen
  int offset;        // position of the first new token, unless there is an array of them
  bool causal, has_offsets, has_mask;
};

struct BlockArguments {
  mx::array x;
  std::vector<mx::array> arrays;
  mx::array keys, values;
  int start, first;
  std::variant<int, mx::array> offset;
  std::variant<std::monostate, std::string, mx::array> mask;
};

// (y, keys, values) with the new tokens in the cache's buffers, or nothing where the kernels can't do it.
std::optional<std::tuple<mx::array, mx::array, mx::array>> op_block(const std::shared_ptr<const BlockShape>& shape,
                                                                    const BlockArguments& a);

}  // namespace mlxlm
