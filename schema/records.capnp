# What the registry keeps on disk, and what travels of it between processes.
# Fields are only ever added, with higher numbers; none is reused or retyped.
@0xb7d1f0a3c94e5d21;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("slipway::schema");

enum DType { f32 @0; f64 @1; f16 @2; bf16 @3; i64 @4; i32 @5; i16 @6; i8 @7; u8 @8; b8 @9; }

# One dimension list plus element type. A dimension of -1 is free; the first is the batch.
struct TensorSpec {
  name @0 :Text;
  dtype @1 :DType;
  shape @2 :List(Int64);
}

struct Signature {
  inputs @0 :List(TensorSpec);
  outputs @1 :List(TensorSpec);
  classes @2 :List(Text);       # names of a classifier's outputs in order; empty: not a classifier
  logits @3 :Bool;              # a classifier that answers logits: softmax, for a lone output sigmoid, makes them probabilities
}

struct Metric {
  name @0 :Text;                # Keras' log name: "loss", "val_accuracy", "learning_rate"
  value @1 :Float64;
}

# A file held as content-addressed chunks. `chunks` is left out of listings.
struct StoredFile {
  name @0 :Text;
  sizeBytes @1 :UInt64;
  digest @2 :Data;              # SHA-256 of the whole file, 32 bytes
  chunks @3 :List(Data);        # SHA-256 of each chunk of 4 MiB (the last may be shorter), in order
}

# One column of a table, or the pixels and labels of an image set.
struct Column {
  name @0 :Text;
  text @1 :Bool;                # true: `categories` lists its values; false: numbers
  min @2 :Float64;
  max @3 :Float64;
  integral @4 :Bool;            # every value is a whole number
  categories @5 :List(Text);    # sorted, at most 1000; empty for numbers
}

struct Dataset {
  name @0 :Text;
  version @1 :UInt64;           # dense from 1 per name
  digest @2 :Data;              # SHA-256 over the content, not its compression: 32 bytes
  format @3 :Text;              # "idx" or "csv"
  rows @4 :UInt64;              # training rows
  testRows @5 :UInt64;          # rows of the test set that came along (IDX); 0: none
  rowShape @6 :List(Int64);     # of one example: [28, 28], or [columns] for a table
  dtype @7 :DType;              # of the features: "u8" for images, "f32" for tables
  classes @8 :UInt64;           # number of classes of the labels (largest label + 1); 0: not known without a target
  columns @9 :List(Column);     # tables only, in file order
  files @10 :List(StoredFile);  # decompressed; IDX under MNIST's four names without ".gz"
  createdMs @11 :Int64;         # Unix time, milliseconds
  sizeBytes @12 :UInt64;
  actor @13 :Text;              # who uploaded it; empty: not said
}

enum JobState {
  queued @0;
  starting @1;
  running @2;
  retrying @3;
  succeeded @4;
  failed @5;
  cancelled @6;
}

struct Progress {
  epoch @0 :UInt32;             # 1-based, of `epochs`
  epochs @1 :UInt32;
  step @2 :UInt64;              # batches of this epoch done
  steps @3 :UInt64;             # batches in one epoch
  rowsPerSecond @4 :Float64;
  secondsLeft @5 :Float64;      # estimate; negative: not known yet
  learningRate @6 :Float64;
  metrics @7 :List(Metric);     # running means of this epoch; with val_* at its end
}

struct Job {
  id @0 :Text;
  state @1 :JobState;
  document @2 :Text;            # the job as submitted, JSON; left out of listings
  specDigest @3 :Data;          # SHA-256 of `document`
  model @4 :Text;               # publish.model
  dataset @5 :Text;
  datasetVersion @6 :UInt64;
  datasetDigest @7 :Data;
  seed @8 :UInt64;
  attempt @9 :UInt32;           # tries begun so far
  cancelRequested @10 :Bool;
  reason @11 :Text;             # machine-readable when failed: NAN_LOSS, DATA_ERROR, WORKER_LOST, INTERNAL, ...
  message @12 :Text;            # for people
  createdMs @13 :Int64;
  startedMs @14 :Int64;         # 0: not started
  finishedMs @15 :Int64;        # 0: not finished
  version @16 :UInt64;          # the published version; 0: none
  progress @17 :Progress;       # the last report
  worker @18 :Text;             # who runs it or ran it last
  requestId @19 :Text;          # of the submission
  actor @20 :Text;              # who submitted it; empty: not said
}

# A line of a job's history; ids are dense from 1 per job.
struct JobEvent {
  id @0 :UInt64;
  atMs @1 :Int64;
  kind @2 :Text;                # "state", "progress", "epoch", "checkpoint", "warning"
  state @3 :JobState;
  message @4 :Text;
  progress @5 :Progress;
}

# What an attempt needs to go on from where the last one was.
struct Checkpoint {
  job @0 :Text;
  number @1 :UInt64;            # dense from 1 per job
  attempt @2 :UInt32;
  files @3 :List(StoredFile);
  atMs @4 :Int64;
}

struct Lease {
  job @0 :Text;
  epoch @1 :UInt64;             # grows with every grant; a write under an old one is refused
  holder @2 :Text;              # worker id
  durationMs @3 :UInt32;
  token @4 :Text;               # 128 random bits as hex, known to registry and holder alone; shown nowhere
}

struct Lineage {
  job @0 :Text;                 # empty: uploaded
  dataset @1 :Text;
  datasetVersion @2 :UInt64;
  datasetDigest @3 :Data;
  specDigest @4 :Data;
  seed @5 :UInt64;
}

struct Version {
  model @0 :Text;
  number @1 :UInt64;            # dense from 1 per model
  signature @2 :Signature;
  metrics @3 :List(Metric);
  lineage @4 :Lineage;
  files @5 :List(StoredFile);
  uploaded @6 :Bool;            # made elsewhere: scanned before every load
  createdMs @7 :Int64;
  actor @8 :Text;
  quarantined @9 :Text;         # why it is not loaded; filled in answers from the Quarantine of its file; empty: it may be
}

# A file that ended a process, or held one for good. No inferencer loads it until this is lifted.
struct Quarantine {
  digest @0 :Data;              # of the file: the same bytes under another name are quarantined too
  model @1 :Text;               # as which it was found out
  version @2 :UInt64;
  reason @3 :Text;
  atMs @4 :Int64;
}

struct Alias {
  name @0 :Text;
  version @1 :UInt64;
}

struct Model {
  name @0 :Text;
  latest @1 :UInt64;            # newest version; 0: none yet
  aliases @2 :List(Alias);
  createdMs @3 :Int64;
  updatedMs @4 :Int64;
  unloaded @5 :Bool;            # its versions, later ones too, are kept and not served; false, as in earlier records: served
  servingActor @6 :Text;        # who loaded or unloaded it last; empty: nobody, or not said
  servingAtMs @7 :Int64;        # and when; 0: never
}

# Who moved an alias, when, from where, to where, why.
struct AliasMove {
  model @0 :Text;
  alias @1 :Text;
  from @2 :UInt64;              # 0: it was not set
  to @3 :UInt64;                # 0: deleted
  reason @4 :Text;
  actor @5 :Text;
  atMs @6 :Int64;
  number @7 :UInt64;            # dense from 1 per alias; 0: written before moves were numbered
}
