// A worker's side of its connections to every gateway: HELLO, WELCOME, REHELLO, heartbeats with credits.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>
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

  struct Times {
    std::chrono::milliseconds resolve_every{2000};  // and up to a quarter more
    std::chrono::milliseconds unheard{6000};        // a gateway without a word for so long has no share any more
    // Without one for so long, and not named by two whole answers in a row, it is forgotten.
    std::chrono::milliseconds silence{15'000};
  };

  // `gateways` as for look_up: addresses, names or files, which are looked up again and again in a thread of the link's
  // own; every address found is dialled. An answer that is not whole (a name server or a file is away) adds what it has
  // and ends nobody's place. `secret` is the cluster's and is shown with HELLO; empty: none.
  WorkerLink(Bus& bus, msg::Hello hello, std::vector<std::string> gateways, State state, OnRequest on_request,
             std::string secret, Times times);
  WorkerLink(Bus& bus, msg::Hello hello, std::vector<std::string> gateways, State state, OnRequest on_request,
             std::string secret = {})
      : WorkerLink(bus, std::move(hello), std::move(gateways), std::move(state), std::move(on_request),
                   std::move(secret), Times()) {}
  ~WorkerLink();
  WorkerLink(const WorkerLink&) = delete;
  WorkerLink& operator=(const WorkerLink&) = delete;

  // Sends a heartbeat to every gateway now: credits, loaded versions or draining have changed.
  void announce();

  // Gateways that are dialled.
  [[nodiscard]] int dialled() const;

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
