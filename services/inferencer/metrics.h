// The inferencer's metrics, made once.
#pragma once

#include "lib/obs/metrics.h"
#include "services/inferencer/batcher.h"

namespace slipway::inferencer {

struct Metrics {
  prometheus::Family<prometheus::Counter>& requests;  // {code}: "ok" or an error's name
  prometheus::Counter& requests_ok;
  prometheus::Counter& rows;
  prometheus::Histogram& batch_rows;
  prometheus::Counter& released_free;
  prometheus::Counter& released_full;
  prometheus::Counter& released_due;
  prometheus::Histogram& queue_wait;
  prometheus::Histogram& compute;
  prometheus::Gauge& queued_rows;
  prometheus::Gauge& loaded;
  prometheus::Gauge& model_bytes;
  prometheus::Family<prometheus::Counter>& loads;  // {result}
  prometheus::Histogram& load_time;
  prometheus::Family<prometheus::Counter>& inspections;  // {result}

  prometheus::Counter& released(Batcher::Reason reason) const;
};

Metrics& metrics();

}  // namespace slipway::inferencer
