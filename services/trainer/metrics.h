// The trainer's metrics, made once.
#pragma once

#include "lib/obs/metrics.h"

namespace slipway::trainer {

struct Metrics {
  prometheus::Gauge& busy;                               // 1 while an attempt runs
  prometheus::Counter& rows;                             // rows trained on
  prometheus::Family<prometheus::Counter>& attempts;     // {outcome}
  prometheus::Family<prometheus::Counter>& checkpoints;  // {result}
  prometheus::Histogram& checkpoint_time;
  prometheus::Counter& failed_reports;
};

Metrics& metrics();

}  // namespace slipway::trainer
