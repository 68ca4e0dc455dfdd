// Reads server-sent events from bytes as they come, in pieces of any size.
// Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, "Interpreting an event stream".
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/error.h"

namespace slipway::cli {

struct SseEvent {
  std::string id;    // the last `id:` seen on the stream, this event's or an earlier one's
  std::string name;  // "message" when the event names none
  std::string data;
  bool operator==(const SseEvent&) const = default;
};

// No I/O and no clock in here. After an error the object is spent.
class SseReader {
 public:
  explicit SseReader(std::size_t max_event_bytes = 1 << 20) : max_event_bytes_(max_event_bytes) {}

  // The events completed by `bytes`. Events without data are dropped, as the standard says.
  // Errors: kTooLarge (a line or an event's data over max_event_bytes).
  [[nodiscard]] Result<std::vector<SseEvent>> push(std::string_view bytes);

  // Forgets a half-read event but not the last id: for the next connection.
  void reconnect();

  [[nodiscard]] const std::string& last_id() const { return id_; }

 private:
  void end_line(std::vector<SseEvent>& events);

  const std::size_t max_event_bytes_;
  std::string line_;
  bool after_cr_ = false;   // a '\n' right now belongs to the '\r' before
  bool first_line_ = true;  // may begin with a byte order mark
  std::string id_;
  std::string name_;
  std::string data_;
  bool has_data_ = false;
};

}  // namespace slipway::cli
