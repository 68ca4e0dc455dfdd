// A worker's side of its connections to every gateway: HELLO, WELCOME, REHELLO, heartbeats with credits.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lib/wire/bus.h"

namespace slipway {

// Life: must not outlive the bus. Threads: any; `state` and `on_request` run on the bus thread and must not block.
class WorkerLink {
 public:
  // What this worker can take now in all; the link shares `credits` out among the gateways that have welcomed it.
  using State = std::function<msg::Heartbeat()>;
  // A request (infer, cancel, runJob, inspect) and where its answer goes: Bus::answer(incoming.socket, ...) with the
  // request's correlation. When it throws, the asker is answered kInternal.
  using OnRequest = std::function<void(Incoming)>;

  // `gateways` are "host:port"; names are resolved again every few seconds in a thread of the link's own, and every
  // address of a name is dialled. `secret` is the cluster's and is shown with HELLO; empty: none.
  WorkerLink(Bus& bus, msg::Hello hello, std::vector<std::string> gateways, State state, OnRequest on_request,
             std::string secret = {});
  ~WorkerLink();
  WorkerLink(const WorkerLink&) = delete;
  WorkerLink& operator=(const WorkerLink&) = delete;

  // Sends a heartbeat to every gateway now: credits, loaded versions or draining have changed.
  void announce();

  // Gateways that have welcomed this worker and not refused it since.
  [[nodiscard]] int welcomed() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace slipway
