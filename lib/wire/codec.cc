#include "lib/wire/codec.h"

#include <capnp/any.h>
#include <capnp/message.h>
#include <capnp/schema.h>
#include <capnp/serialize.h>

#include <algorithm>
#include <array>
#include <bit>
#include <boost/pfr.hpp>
#include <boost/pfr/core_name.hpp>
#include <cstring>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "lib/wire/protocol.h"
#include "schema/envelope.capnp.h"
#include "schema/records.capnp.h"

namespace slipway {
namespace {

static_assert(std::endian::native == std::endian::little, "as the bytes of a message are");

// The structs in schema/*.h have the fields of the schema's structs under the same names (snake_case there, camelCase
// here), so one walk over the fields serves every message. Where each field is in a struct's bytes is looked up in the
// schema once; after that the walk knows no names.

template <class T>
constexpr bool is_vector = false;
template <class T>
constexpr bool is_vector<std::vector<T>> = true;
template <class T>
constexpr bool is_id = false;
template <class Tag>
constexpr bool is_id<Id<Tag>> = true;
template <class T>
constexpr bool is_plain_struct =
    std::is_aggregate_v<T> && !std::is_same_v<T, Digest> && !is_vector<T> && !std::is_same_v<T, std::string>;
template <class T>
constexpr bool is_number = std::is_arithmetic_v<T> || std::is_enum_v<T>;

std::string camel_case(std::string_view snake) {
  std::string camel;
  bool upper = false;
  for (const char c : snake) {
    if (c == '_') {
      upper = true;
      continue;
    }
    camel.push_back(upper ? static_cast<char>(std::toupper(c)) : c);
    upper = false;
  }
  return camel;
}

// Where a struct of the schema has T's members: for a number the byte (for a bool the bit) of its data, for all else
// the pointer.
template <class T>
struct Layout {
  std::uint16_t data_words = 0;
  std::uint16_t pointers = 0;
  std::array<std::uint32_t, boost::pfr::tuple_size_v<T>> offsets{};

  [[nodiscard]] std::uint64_t words() const { return std::uint64_t{data_words} + pointers; }
};

// Written once, by layouts_are_known().
template <class T>
Layout<T> layout;

// What the schema calls T's kind, so that both can be seen to be the same.
template <class T>
constexpr capnp::schema::Type::Which kind_in_schema() {
  using Kind = capnp::schema::Type;
  if constexpr (std::is_same_v<T, std::string> || is_id<T>) return Kind::TEXT;
  if constexpr (std::is_same_v<T, Digest>) return Kind::DATA;
  if constexpr (is_vector<T>) return Kind::LIST;
  if constexpr (std::is_enum_v<T>) return Kind::ENUM;
  if constexpr (std::is_same_v<T, bool>) return Kind::BOOL;
  if constexpr (std::is_same_v<T, float>) return Kind::FLOAT32;
  if constexpr (std::is_same_v<T, double>) return Kind::FLOAT64;
  if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
    constexpr bool kSigned = std::is_signed_v<T>;
    if constexpr (sizeof(T) == 1) return kSigned ? Kind::INT8 : Kind::UINT8;
    if constexpr (sizeof(T) == 2) return kSigned ? Kind::INT16 : Kind::UINT16;
    if constexpr (sizeof(T) == 4) return kSigned ? Kind::INT32 : Kind::UINT32;
    if constexpr (sizeof(T) == 8) return kSigned ? Kind::INT64 : Kind::UINT64;
  }
  return Kind::STRUCT;
}

// A number's bytes in a message.
template <class T>
constexpr std::size_t stored_bytes() {
  return std::is_enum_v<T> ? sizeof(std::uint16_t) : sizeof(T);
}

template <class T>
void learn(capnp::StructSchema schema);

template <class T>
void learn_member(capnp::Type type, std::string_view name) {
  if (type.which() != kind_in_schema<T>()) {
    throw std::logic_error(std::format("the schema's {} is of kind {}, the struct's of {}", name,
                                       std::to_underlying(type.which()), std::to_underlying(kind_in_schema<T>())));
  }
  if constexpr (is_vector<T>) {
    learn_member<typename T::value_type>(type.asList().getElementType(), name);
  } else if constexpr (is_plain_struct<T>) {
    learn<T>(type.asStruct());
  }
}

template <class T, std::size_t... I>
void learn_members(capnp::StructSchema schema, std::index_sequence<I...>) {
  constexpr auto kNames = boost::pfr::names_as_array<T>();
  (
      [&] {
        using Member = boost::pfr::tuple_element_t<I, T>;
        const auto field = schema.getFieldByName(camel_case(kNames[I]));
        learn_member<Member>(field.getType(), kNames[I]);
        const std::uint32_t slot = field.getProto().getSlot().getOffset();  // in units of the field's own size
        layout<T>.offsets[I] =
            is_number<Member> && !std::is_same_v<Member, bool> ? slot * stored_bytes<Member>() : slot;
      }(),
      ...);
}

template <class T>
void learn(capnp::StructSchema schema) {
  const auto proto = schema.getProto().getStruct();
  layout<T>.data_words = proto.getDataWordCount();
  layout<T>.pointers = proto.getPointerCount();
  learn_members<T>(schema, std::make_index_sequence<boost::pfr::tuple_size_v<T>>{});
}

// --- writing ---

// Not inlined: structs within structs within fifty messages would be one function of a hundred thousand lines.
template <class T>
[[gnu::noinline]] void write_struct(const T& value, capnp::AnyStruct::Builder builder);

capnp::Text::Reader to_text(const std::string& text) { return {text.c_str(), text.size()}; }
capnp::Data::Reader to_data(const Digest& digest) { return {digest.bytes.data(), digest.bytes.size()}; }

template <class Item>
void write_list(const std::vector<Item>& values, capnp::AnyPointer::Builder pointer) {
  const auto size = static_cast<unsigned>(values.size());
  if constexpr (is_plain_struct<Item>) {
    auto list = pointer.initAsListOfAnyStruct(layout<Item>.data_words, layout<Item>.pointers, size);
    for (unsigned i = 0; i < size; ++i) write_struct(values[i], list[i]);
  } else if constexpr (std::is_same_v<Item, std::string>) {
    auto list = pointer.initAs<capnp::List<capnp::Text>>(size);
    for (unsigned i = 0; i < size; ++i) list.set(i, to_text(values[i]));
  } else if constexpr (std::is_same_v<Item, Digest>) {
    auto list = pointer.initAs<capnp::List<capnp::Data>>(size);
    for (unsigned i = 0; i < size; ++i) list.set(i, to_data(values[i]));
  } else {
    static_assert(std::is_arithmetic_v<Item> && !std::is_same_v<Item, bool>);
    auto list = pointer.initAs<capnp::List<Item>>(size);
    for (unsigned i = 0; i < size; ++i) list.set(i, values[i]);
  }
}

template <class T>
void write_pointer(const T& value, capnp::AnyPointer::Builder pointer) {
  if constexpr (std::is_same_v<T, std::string>) {
    if (!value.empty()) pointer.setAs<capnp::Text>(to_text(value));
  } else if constexpr (is_id<T>) {
    write_pointer(value.text(), pointer);
  } else if constexpr (std::is_same_v<T, Digest>) {
    if (!value.empty()) pointer.setAs<capnp::Data>(to_data(value));
  } else if constexpr (is_vector<T>) {
    if (!value.empty()) write_list(value, pointer);
  } else {
    write_struct(value, pointer.initAsAnyStruct(layout<T>.data_words, layout<T>.pointers));
  }
}

template <class T>
void write_number(T value, std::uint32_t offset, capnp::Data::Builder data) {
  if constexpr (std::is_same_v<T, bool>) {
    if (value) data[offset / 8] |= static_cast<kj::byte>(1U << offset % 8);
  } else if constexpr (std::is_enum_v<T>) {
    write_number(static_cast<std::uint16_t>(value), offset, data);
  } else {
    std::memcpy(data.begin() + offset, &value, sizeof value);
  }
}

template <class T>
void write_struct(const T& value, capnp::AnyStruct::Builder builder) {
  if constexpr (boost::pfr::tuple_size_v<T> > 0) {
    const auto data = builder.getDataSection();
    auto pointers = builder.getPointerSection();
    boost::pfr::for_each_field(value, [&]<class Member>(const Member& member, std::size_t i) {
      const std::uint32_t offset = layout<T>.offsets[i];
      if constexpr (is_number<Member>)
        write_number(member, offset, data);
      else
        write_pointer(member, pointers[offset]);
    });
  }
}

// --- counting: the words that the same walk will write ---

struct Count {
  std::uint64_t words = 0;
  std::size_t longest_list = 0;

  void bytes(std::size_t size) { words += (size + sizeof(capnp::word) - 1) / sizeof(capnp::word); }
};

template <class T>
[[gnu::noinline]] void count_struct(const T& value, Count& count);

// What `value`'s pointer points to.
template <class T>
void count_member(const T& value, Count& count) {
  if constexpr (std::is_same_v<T, std::string>) {
    if (!value.empty()) count.bytes(value.size() + 1);
  } else if constexpr (is_id<T>) {
    count_member(value.text(), count);
  } else if constexpr (std::is_same_v<T, Digest>) {
    if (!value.empty()) count.bytes(value.bytes.size());
  } else if constexpr (is_vector<T>) {
    using Item = T::value_type;
    if (value.empty()) return;
    count.longest_list = std::max(count.longest_list, value.size());
    if constexpr (is_plain_struct<Item>) {
      count.words += 1 + value.size() * layout<Item>.words();
      for (const Item& item : value) count_struct(item, count);
    } else if constexpr (std::is_same_v<Item, std::string>) {
      count.words += value.size();
      for (const Item& item : value) count.bytes(item.size() + 1);
    } else if constexpr (std::is_same_v<Item, Digest>) {
      count.words += value.size();
      for (const Item& item : value) count.bytes(item.bytes.size());
    } else {
      count.bytes(value.size() * sizeof(Item));
    }
  } else if constexpr (is_plain_struct<T>) {
    count.words += layout<T>.words();
    count_struct(value, count);
  }
}

template <class T>
void count_struct(const T& value, Count& count) {
  if constexpr (boost::pfr::tuple_size_v<T> > 0) {
    boost::pfr::for_each_field(value, [&](const auto& member) { count_member(member, count); });
  }
}

// --- reading ---

struct Malformed {
  std::string what;
};

template <class T>
[[gnu::noinline]] void read_struct(capnp::AnyStruct::Reader reader, T& value);

void read_digest(capnp::Data::Reader data, Digest& digest) {
  if (data.size() == 0) return;
  if (data.size() != digest.bytes.size()) throw Malformed{"a digest that is not 32 bytes long"};
  std::copy(data.begin(), data.end(), digest.bytes.begin());
}

void check_list(std::size_t size) {
  // A list of empty structs takes no bytes in the message but plenty here.
  if (size > kMaxListItems) throw Malformed{std::format("a list of {} items", size)};
}

template <class Item>
void read_list(capnp::AnyPointer::Reader pointer, std::vector<Item>& values) {
  const auto fill = [&](const auto& list, auto read) {
    check_list(list.size());
    values.resize(list.size());
    for (unsigned i = 0; i < list.size(); ++i) read(list[i], values[i]);
  };
  if constexpr (is_plain_struct<Item>) {
    const auto list = pointer.getAs<capnp::AnyList>();
    if (list.getElementSize() == capnp::ElementSize::BIT) throw Malformed{"a list of bits where structs are wanted"};
    fill(list.as<capnp::List<capnp::AnyStruct>>(),
         [](capnp::AnyStruct::Reader item, Item& value) { read_struct(item, value); });
  } else if constexpr (std::is_same_v<Item, std::string>) {
    fill(pointer.getAs<capnp::List<capnp::Text>>(),
         [](capnp::Text::Reader item, Item& value) { value.assign(item.begin(), item.size()); });
  } else if constexpr (std::is_same_v<Item, Digest>) {
    fill(pointer.getAs<capnp::List<capnp::Data>>(), read_digest);
  } else {
    fill(pointer.getAs<capnp::List<Item>>(), [](Item item, Item& value) { value = item; });
  }
}

template <class T>
void read_pointer(capnp::AnyPointer::Reader pointer, T& value) {
  if constexpr (std::is_same_v<T, std::string>) {
    const auto text = pointer.getAs<capnp::Text>();
    value.assign(text.begin(), text.size());
  } else if constexpr (is_id<T>) {
    std::string text;
    read_pointer(pointer, text);
    value = T(std::move(text));
  } else if constexpr (std::is_same_v<T, Digest>) {
    read_digest(pointer.getAs<capnp::Data>(), value);
  } else if constexpr (is_vector<T>) {
    read_list(pointer, value);
  } else {
    read_struct(pointer.getAs<capnp::AnyStruct>(), value);
  }
}

// What an older release has not written is 0.
template <class T>
void read_number(capnp::Data::Reader data, std::uint32_t offset, T& value) {
  if constexpr (std::is_same_v<T, bool>) {
    value = offset / 8 < data.size() && (data[offset / 8] >> offset % 8 & 1) != 0;
  } else if constexpr (std::is_enum_v<T>) {
    std::uint16_t number = 0;
    read_number(data, offset, number);
    value = static_cast<T>(number);
  } else {
    value = T();
    if (offset + sizeof value <= data.size()) std::memcpy(&value, data.begin() + offset, sizeof value);
  }
}

template <class T>
void read_struct(capnp::AnyStruct::Reader reader, T& value) {
  if constexpr (boost::pfr::tuple_size_v<T> > 0) {
    const auto data = reader.getDataSection();
    const auto pointers = reader.getPointerSection();
    boost::pfr::for_each_field(value, [&]<class Member>(Member& member, std::size_t i) {
      const std::uint32_t offset = layout<T>.offsets[i];
      if constexpr (is_number<Member>) {
        read_number(data, offset, member);
      } else {
        read_pointer(offset < pointers.size() ? pointers[offset] : capnp::AnyPointer::Reader(), member);
      }
    });
  }
}

// --- the envelope's union ---

constexpr std::size_t kKindCount = std::variant_size_v<msg::Body>;

// Of the envelope: where its kinds are, in the order of `Body`.
struct KindSlot {
  std::uint16_t tag = 0;
  std::uint32_t pointer = 0;
};
struct EnvelopeLayout {
  std::array<KindSlot, kKindCount> kinds{};
  std::vector<std::size_t> by_tag;
  std::size_t tag_bytes_at = 0;
  std::size_t deadline_bytes_at = 0;
  std::size_t protocol_bytes_at = 0;
  std::uint64_t words = 0;
};
EnvelopeLayout envelope_layout;  // NOLINT(cppcoreguidelines-avoid-non-const-global-variables): as layout<T>

template <std::size_t... I>
void learn_kinds(std::index_sequence<I...>) {
  const auto schema = capnp::Schema::from<schema::Envelope>();
  const auto proto = schema.getProto().getStruct();
  const auto fields = schema.getUnionFields();  // in the schema's order, which is that of `Body`
  if (fields.size() != kKindCount) throw std::logic_error("the schema has other kinds of messages than msg::Body");
  envelope_layout.words = std::uint64_t{proto.getDataWordCount()} + proto.getPointerCount();
  envelope_layout.tag_bytes_at = proto.getDiscriminantOffset() * sizeof(std::uint16_t);
  envelope_layout.deadline_bytes_at =
      schema.getFieldByName("deadlineMs").getProto().getSlot().getOffset() * sizeof(std::uint32_t);
  envelope_layout.protocol_bytes_at =
      schema.getFieldByName("protocol").getProto().getSlot().getOffset() * sizeof(std::uint16_t);
  envelope_layout.by_tag.resize(fields.size());
  (
      [&] {
        using Kind = std::variant_alternative_t<I, msg::Body>;
        const auto field = fields[I];
        KindSlot& slot = envelope_layout.kinds[I];
        slot.tag = field.getProto().getDiscriminantValue();
        slot.pointer = field.getProto().getSlot().getOffset();
        envelope_layout.by_tag.at(slot.tag) = I;
        if constexpr (boost::pfr::tuple_size_v<Kind> != 0) learn_member<Kind>(field.getType(), "message");
      }(),
      ...);
}

template <std::size_t I>
void write_body(const msg::Body& body, capnp::AnyStruct::Builder envelope) {
  const KindSlot& slot = envelope_layout.kinds[I];
  std::memcpy(envelope.getDataSection().begin() + envelope_layout.tag_bytes_at, &slot.tag, sizeof slot.tag);
  if constexpr (boost::pfr::tuple_size_v<std::variant_alternative_t<I, msg::Body>> != 0) {
    write_pointer(std::get<I>(body), envelope.getPointerSection()[slot.pointer]);
  }
}

template <std::size_t I>
void read_body(capnp::AnyStruct::Reader envelope, msg::Body& body) {
  auto& alternative = body.emplace<I>();
  if constexpr (boost::pfr::tuple_size_v<std::variant_alternative_t<I, msg::Body>> != 0) {
    const auto pointers = envelope.getPointerSection();
    const auto at = envelope_layout.kinds[I].pointer;
    if (at < pointers.size()) read_pointer(pointers[at], alternative);
  }
}

template <std::size_t I>
void count_body(const msg::Body& body, Count& count) {
  using Kind = std::variant_alternative_t<I, msg::Body>;
  if constexpr (boost::pfr::tuple_size_v<Kind> != 0) count_member(std::get<I>(body), count);
}

constexpr auto kKinds = std::make_index_sequence<kKindCount>{};

constexpr auto kWriters = []<std::size_t... I>(std::index_sequence<I...>) {
  return std::array{&write_body<I>...};
}(kKinds);
constexpr auto kCounters = []<std::size_t... I>(std::index_sequence<I...>) {
  return std::array{&count_body<I>...};
}(kKinds);
constexpr auto kReaders = []<std::size_t... I>(std::index_sequence<I...>) {
  return std::array{&read_body<I>...};
}(kKinds);

// What is stored on its own, each under the schema's struct of the same name.
#define SLIPWAY_RECORDS(X) \
  X(Dataset)               \
  X(Job) X(JobEvent) X(Checkpoint) X(Lease) X(Version) X(Model) X(Alias) X(AliasMove) X(Quarantine) X(StoredFile)

template <class T>
struct RecordSchema;
#define SLIPWAY_SCHEMA(T) \
  template <>             \
  struct RecordSchema<T> : std::type_identity<schema::T> {};
SLIPWAY_RECORDS(SLIPWAY_SCHEMA)
#undef SLIPWAY_SCHEMA

// Before anything else here: fills every layout.
void layouts_are_known() {
  static const bool known = [] {
    learn_kinds(kKinds);
#define SLIPWAY_LEARN(T) learn<T>(capnp::Schema::from<schema::T>());
    SLIPWAY_RECORDS(SLIPWAY_LEARN)
#undef SLIPWAY_LEARN
    return true;
  }();
  static_cast<void>(known);
}

// --- frames ---

// This release writes one; earlier ones wrote as many as a record needed, and disks have them.
constexpr std::uint32_t kMaxSegments = 512;

// Calls `read` with the root of `bytes`; whatever is wrong with them becomes an Error with `code`.
template <class Root, class Read>
auto with_root(std::span<const std::byte> bytes, Code code, Read read)
    -> decltype(read(std::declval<typename Root::Reader>())) {
  if (bytes.size() < 16 || bytes.size() % 8 != 0) {
    return fail(code, std::format("{} bytes are not a Cap'n Proto message", bytes.size()));
  }
  std::uint32_t segments_less_one = 0;
  std::memcpy(&segments_less_one, bytes.data(), sizeof segments_less_one);
  if (segments_less_one >= kMaxSegments) {
    return fail(code, std::format("a message of {} segments", segments_less_one + 1ULL));
  }

  // Small ZeroMQ frames arrive at any address; Cap'n Proto wants multiples of 8.
  std::vector<capnp::word> aligned;
  const auto* words = reinterpret_cast<const capnp::word*>(bytes.data());
  if (reinterpret_cast<std::uintptr_t>(bytes.data()) % sizeof(capnp::word) != 0) {
    aligned.resize(bytes.size() / sizeof(capnp::word));
    std::memcpy(aligned.data(), bytes.data(), bytes.size());
    words = aligned.data();
  }
  try {
    capnp::ReaderOptions limits;
    limits.traversalLimitInWords = 4 * (bytes.size() / sizeof(capnp::word)) + 1024;
    limits.nestingLimit = 16;
    capnp::FlatArrayMessageReader reader(kj::arrayPtr(words, bytes.size() / sizeof(capnp::word)), limits);
    return read(reader.getRoot<Root>());
  } catch (const kj::Exception& error) {
    return fail(code, std::format("malformed message: {}", error.getDescription().cStr()));
  } catch (const Malformed& error) {
    return fail(code, "malformed message: " + error.what);
  }
}

// Bytes of a message of one segment: the table of segments, then the words.
constexpr std::size_t message_bytes(const Count& count) { return (1 + count.words) * sizeof(capnp::word); }

// Lets `write` write a message of `count` words, exactly, into `bytes`, which are zero.
template <class Root, class Write>
void write_message(const Count& count, void* bytes, Write write) {
  const std::uint32_t table[2] = {0, static_cast<std::uint32_t>(count.words)};  // segments less one, their sizes
  std::memcpy(bytes, table, sizeof table);
  capnp::FlatMessageBuilder builder(kj::arrayPtr(static_cast<capnp::word*>(bytes) + 1, count.words));
  write(builder.initRoot<Root>());
  builder.requireFilled();
}

Result<void> check(const Count& count, std::string_view what, std::size_t max_bytes) {
  if (message_bytes(count) > max_bytes) {
    return fail(Code::kTooLarge,
                std::format("{} of {} bytes, at most {} are taken", what, message_bytes(count), max_bytes));
  }
  if (count.longest_list > kMaxListItems) {
    return fail(Code::kTooLarge, std::format("{} with a list of {} items, at most {} are taken", what,
                                             count.longest_list, kMaxListItems));
  }
  return {};
}

Count count_of(const msg::Envelope& envelope) {
  Count count{.words = 1, .longest_list = 0};  // the pointer to the root
  layouts_are_known();
  count.words += envelope_layout.words;
  if (!envelope.request_id.empty()) count.bytes(envelope.request_id.size() + 1);
  if (!envelope.secret.empty()) count.bytes(envelope.secret.size() + 1);
  count.longest_list = envelope.payload_bytes.size();
  count.words += envelope.payload_bytes.size();
  kCounters[envelope.body.index()](envelope.body, count);
  return count;
}

Frame write_envelope(const msg::Envelope& envelope, const Count& count) {
  std::vector<std::uint64_t> words(1 + count.words);
  write_message<schema::Envelope>(count, words.data(), [&](schema::Envelope::Builder root) {
    root.setProtocol(envelope.protocol);
    root.setOldestProtocol(envelope.protocols.oldest);
    root.setNewestProtocol(envelope.protocols.newest);
    root.setCorrelation(envelope.correlation);
    root.setDeadlineMs(envelope.deadline_ms);
    if (!envelope.request_id.empty()) root.setRequestId(to_text(envelope.request_id));
    if (!envelope.secret.empty()) root.setSecret(to_text(envelope.secret));
    if (!envelope.payload_bytes.empty()) {
      auto sizes = root.initPayloadBytes(static_cast<unsigned>(envelope.payload_bytes.size()));
      for (unsigned i = 0; i < sizes.size(); ++i) sizes.set(i, envelope.payload_bytes[i]);
    }
    kWriters[envelope.body.index()](envelope.body, capnp::toAny(root));
  });
  return Frame::of(std::move(words));
}

template <class T>
Count count_of_record(const T& record) {
  layouts_are_known();
  Count count{.words = 1 + layout<T>.words(), .longest_list = 0};
  count_struct(record, count);
  return count;
}

}  // namespace

Frame encode(const msg::Envelope& envelope) { return write_envelope(envelope, count_of(envelope)); }

Result<Frame> encode(const msg::Envelope& envelope, std::size_t max_bytes) {
  const Count count = count_of(envelope);
  if (auto fits = check(count, "an envelope", max_bytes); !fits) return std::unexpected(std::move(fits).error());
  return write_envelope(envelope, count);
}

namespace {

template <class T>
Frame with_number(const Frame& encoded, std::size_t bytes_at, T value) {
  std::vector<std::uint64_t> words(encoded.size() / sizeof(std::uint64_t));
  std::memcpy(words.data(), encoded.data(), encoded.size());
  std::memcpy(reinterpret_cast<std::byte*>(words.data()) + 2 * sizeof(capnp::word) + bytes_at, &value, sizeof value);
  return Frame::of(std::move(words));
}

// One that says nothing of what its sender speaks is of the first release.
EnvelopeHead read_head(schema::Envelope::Reader root) {
  const std::uint16_t written = root.getProtocol();
  msg::ProtocolRange speaks{.oldest = root.getOldestProtocol(), .newest = root.getNewestProtocol()};
  if (!contains(speaks, written)) speaks = {.oldest = written, .newest = written};
  return {.correlation = root.getCorrelation(), .protocol = written, .protocols = speaks};
}

}  // namespace

Frame with_deadline(const Frame& encoded, std::uint32_t deadline_ms) {
  return with_number(encoded, envelope_layout.deadline_bytes_at, deadline_ms);
}

Frame with_protocol(const Frame& encoded, std::uint16_t protocol) {
  return with_number(encoded, envelope_layout.protocol_bytes_at, protocol);
}

std::size_t encoded_bytes(const msg::Envelope& envelope) { return message_bytes(count_of(envelope)); }

Result<msg::Envelope> decode(std::span<const std::byte> bytes, msg::ProtocolRange ours) {
  if (bytes.size() > kMaxEnvelopeBytes) {
    return fail(Code::kTooLarge,
                std::format("an envelope of {} bytes, at most {} are taken", bytes.size(), kMaxEnvelopeBytes));
  }
  return with_root<schema::Envelope>(
      bytes, Code::kInvalidArgument, [ours](schema::Envelope::Reader root) -> Result<msg::Envelope> {
        const EnvelopeHead head = read_head(root);
        if (!contains(ours, head.protocol) && !root.isError() && !root.isOtherProtocol())
          return std::unexpected(unread(head.protocol, head.protocols, ours));
        msg::Envelope envelope{.correlation = root.getCorrelation(),
                               .deadline_ms = root.getDeadlineMs(),
                               .request_id = std::string(root.getRequestId().begin(), root.getRequestId().size()),
                               .secret = std::string(root.getSecret().begin(), root.getSecret().size()),
                               .payload_bytes = {},
                               .body = {},
                               .protocol = head.protocol,
                               .protocols = head.protocols};
        const auto sizes = root.getPayloadBytes();
        if (sizes.size() > kMaxListItems) throw Malformed{std::format("a list of {} items", sizes.size())};
        for (const std::uint64_t size : sizes) envelope.payload_bytes.push_back(size);
        layouts_are_known();
        const auto tag = static_cast<std::size_t>(root.which());
        // A kind that this release does not know is nothing.
        const std::size_t kind = tag < envelope_layout.by_tag.size() ? envelope_layout.by_tag[tag] : 0;
        kReaders[kind](capnp::toAny(root), envelope.body);
        return envelope;
      });
}

std::optional<EnvelopeHead> head_of(std::span<const std::byte> bytes) {
  if (bytes.size() > kMaxEnvelopeBytes) return std::nullopt;
  const auto head = with_root<schema::Envelope>(
      bytes, Code::kInvalidArgument,
      [](schema::Envelope::Reader root) -> Result<EnvelopeHead> { return read_head(root); });
  return head ? std::optional(*head) : std::nullopt;
}

template <class T>
std::string encode_record(const T& record) {
  const Count count = count_of_record(record);
  std::string bytes(message_bytes(count), '\0');  // from the heap, and so aligned
  write_message<typename RecordSchema<T>::type>(count, bytes.data(),
                                                [&](auto root) { write_struct(record, capnp::toAny(root)); });
  return bytes;
}

template <class T>
std::size_t encoded_bytes(const T& record) {
  return message_bytes(count_of_record(record));
}

template <class T>
Result<void> fits(const T& record) {
  return check(count_of_record(record), "a record", kMaxRecordBytes);
}

template <class T>
Result<T> decode_record(std::span<const std::byte> bytes) {
  using Root = typename RecordSchema<T>::type;
  return with_root<Root>(bytes, Code::kDataLoss, [](typename Root::Reader root) -> Result<T> {
    T record;
    layouts_are_known();
    read_struct(capnp::toAny(root), record);
    return record;
  });
}

#define SLIPWAY_RECORD(T)                       \
  template std::string encode_record(const T&); \
  template std::size_t encoded_bytes(const T&); \
  template Result<void> fits(const T&);         \
  template Result<T> decode_record(std::span<const std::byte>);
SLIPWAY_RECORDS(SLIPWAY_RECORD)
#undef SLIPWAY_RECORD
#undef SLIPWAY_RECORDS

msg::Error to_message(const Error& error) {
  return {.code = static_cast<std::uint8_t>(error.code),
          .message = error.message,
          .retry_after_ms = static_cast<std::uint32_t>(error.retry_after.count()),
          .path = error.path};
}

Error from_message(const msg::Error& error) {
  const bool known = error.code >= static_cast<std::uint8_t>(Code::kInvalidArgument) &&
                     error.code <= static_cast<std::uint8_t>(Code::kUnsupported);
  return {.code = known ? static_cast<Code>(error.code) : Code::kInternal,
          .message = error.message,
          .path = error.path,
          .retry_after = std::chrono::milliseconds(error.retry_after_ms)};
}

}  // namespace slipway
