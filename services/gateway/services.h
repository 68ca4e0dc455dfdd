// What the routes work with. Everything outlives the HTTP server.
#pragma once

#include <functional>
#include <string>

#include "services/gateway/event_hub.h"
#include "services/gateway/registry_cache.h"
#include "services/gateway/registry_client.h"
#include "services/gateway/settings.h"
#include "services/gateway/worker_hub.h"

namespace slipway::gateway {

struct Services {
  const Settings& settings;
  RegistryClient& registry;
  RegistryCache& cache;
  WorkerHub& workers;
  EventHub& events;
  std::function<std::string()> not_ready;  // why this gateway is not ready; empty: it is
};

}  // namespace slipway::gateway
