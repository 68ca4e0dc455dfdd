#include "services/inferencer/warm_up.h"

#include <set>

#include "services/inferencer/signature_check.h"

namespace slipway::inferencer {

Result<void> warm_up(const TorchModel& model, const Signature& signature, std::int64_t max_batch_rows) {
  if (has_free_dimensions(signature)) return {};
  std::set<std::int64_t> batches{1};
  if (is_batchable(signature)) batches.insert({(max_batch_rows + 1) / 2, max_batch_rows});
  for (const std::int64_t rows : batches) {
    for (int i = 0; i < 2; ++i) {
      if (auto warm = model.warm_up(signature, rows); !warm) return warm;
    }
  }
  return {};
}

}  // namespace slipway::inferencer
