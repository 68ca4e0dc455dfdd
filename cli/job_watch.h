// Follows a job to its end and shows its progress on standard error.
#pragma once

#include <boost/json.hpp>
#include <string>

#include "cli/command.h"
#include "cli/outcome.h"

namespace slipway::cli {

// Ends with the job: kOk, kRefused (it failed) or kCancelled; prints its summary, or its document with --json, on
// standard output. When the connection breaks the events go on from the last one seen, for as long as the gateway is
// away less than two minutes. Ctrl-C leaves the job running.
[[nodiscard]] Outcome<Exit> watch_job(const Session& session, const std::string& id);

// The state of a job in capitals: "RUNNING".
[[nodiscard]] std::string job_state(const boost::json::value& job);

// How long a job has run, or ran: "14.2 s"; "" before it started.
[[nodiscard]] std::string job_run_time(const boost::json::value& job);

// What an event's or a job's "progress" says.
[[nodiscard]] TrainProgress read_progress(const boost::json::value& progress);

}  // namespace slipway::cli
