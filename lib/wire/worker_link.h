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
  // What this worker can take now in all. The link shares an inferencer's `credits` out among the gateways that have
  // welcomed it; a trainer's go to each, since they only say that it is idle.
  using State = std::function<msg::Heartbeat()>;
  // A request (infer, cancel, offerJob, inspect) and where its answer goes: Bus::answer(incoming.socket, ...) with the
  // request's correlation. When it throws, the asker is answered kInternal.
  using OnRequest = std::function<void(Incoming)>;

  // `gateways` as for look_up: addresses, names or files, which are looked up again every two seconds in a thread of
  // the link's own; every address found is dialled, and one that is not found any more is given up once it is silent.
  // `secret` is the cluster's and is shown with HELLO; empty: none.
  WorkerLink(Bus& bus, msg::Hello hello, std::vector<std::string> gateways, State state, OnRequest on_request,
             std::string secret = {});
  ~WorkerLink();
  WorkerLink(const WorkerLink&) = delete;
  WorkerLink& operator=(const WorkerLink&) = delete;

  // Sends a heartbeat to every gateway now: credits, loaded versions or draining have changed.
  void announce();

  // Gateways that have welcomed this worker and not refused it since.
  [[nodiscard]] int welcomed() const;

  // Each of those has answered a heartbeat that says `draining`: what it sent before has been handed to on_request, and
  // it sends nothing more.
  [[nodiscard]] bool let_go() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace slipway
