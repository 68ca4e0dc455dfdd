# Every message between processes: one header frame with this envelope, then payload frames of raw bytes.
@0xd2a6e84b19f37c05;

using Cxx = import "/capnp/c++.capnp";
using Records = import "records.capnp";
$Cxx.namespace("slipway::schema");

struct Envelope {
  protocol @0 :UInt16;          # that this message is written in; one that the receiver does not speak is answered otherProtocol
  correlation @1 :UInt64;       # chosen by the asker, repeated in the answer; 0: no answer wanted
  deadlineMs @2 :UInt32;        # time left when sent; 0: none
  requestId @3 :Text;           # from the HTTP request; empty: none
  secret @55 :Text;             # the cluster's, if one is configured: with hello, and with every question to the registry
  payloadBytes @56 :List(UInt64); # sizes of the payload frames when one was too large to travel whole and was cut; empty: none was
  oldestProtocol @64 :UInt16;   # that its sender speaks; 0: only the one that this is written in
  newestProtocol @65 :UInt16;   # likewise

  # The order of these is the order of `Body` in messages.h.
  union {
    nothing @4 :Void;           # never sent on purpose: what an unknown kind decodes to
    error @5 :Error;
    ok @6 :Void;

    # worker <-> gateway
    hello @7 :Hello;            # worker -> gateway, first
    welcome @8 :Welcome;
    rehello @9 :Void;           # gateway -> a worker it does not know
    heartbeat @10 :Heartbeat;   # worker -> gateway, every second and at every change; one with a correlation is answered ok
    infer @11 :Infer;           # gateway -> inferencer; one payload frame per input
    inferred @12 :Inferred;     # the answer; one payload frame per output
    cancel @13 :Cancel;         # gateway -> inferencer: nobody waits for `correlation` any more
    runJob @14 :RunJob;         # registry -> trainer, answer to claimJob
    inspect @15 :Inspect;       # gateway -> inferencer: may this uploaded file be served?
    inspected @16 :Inspected;

    # asker -> registry, and the answers
    openUpload @17 :Void;       # answered uploadOpened
    uploadOpened @18 :UploadOpened;
    uploadPart @19 :UploadPart; # one payload frame of at most 1 MiB; answered ok once taken
    abortUpload @20 :AbortUpload;
    getUpload @21 :GetUpload;   # answered uploadedFiles
    uploadedFiles @22 :UploadedFiles;
    getChunk @23 :GetChunk;     # answered ok with one payload frame of at most 4 MiB

    commitDataset @24 :CommitDataset;   # answered datasetStored
    datasetStored @25 :DatasetStored;
    getDataset @26 :GetDataset;         # answered datasets [the one]
    listDatasets @27 :ListDatasets;
    datasets @28 :Datasets;

    createJob @29 :CreateJob;           # answered jobs [the job]
    getJob @30 :GetJob;                 # answered jobs [the job]
    listJobs @31 :ListJobs;
    jobs @32 :Jobs;
    cancelJob @33 :CancelJob;           # answered jobs [the job]
    listJobEvents @34 :ListJobEvents;
    jobEvents @35 :JobEvents;

    claimJob @36 :ClaimJob;             # trainer that is idle; answered runJob, or error notFound: none waits
    reportJob @37 :ReportJob;           # trainer; renews the lease; answered jobOrders
    jobOrders @38 :JobOrders;
    commitCheckpoint @39 :CommitCheckpoint; # trainer; answered ok
    getCheckpoint @40 :GetCheckpoint;   # answered checkpoints, with the last one or none
    checkpoints @41 :Checkpoints;
    publish @42 :Publish;               # trainer: an upload becomes the job's version, the job has succeeded; answered versions
    endAttempt @43 :EndAttempt;         # trainer: it has not; answered ok

    commitVersion @44 :CommitVersion;   # gateway: an upload becomes a version; answered versions
    getVersion @45 :GetVersion;         # answered versions [the one]
    listVersions @46 :ListVersions;
    versions @47 :Versions;
    getModel @48 :GetModel;             # answered models [the one]
    listModels @49 :ListModels;
    models @50 :Models;
    moveAlias @51 :MoveAlias;           # answered models [the model]
    listAliasMoves @52 :ListAliasMoves;
    aliasMoves @53 :AliasMoves;

    # registry -> everyone, on PUB
    changed @54 :Changed;

    # asker -> registry, and the answers
    quarantineFile @57 :QuarantineFile;       # inferencer; answered ok
    liftQuarantine @58 :LiftQuarantine;       # gateway; answered versions [the one]
    listQuarantines @59 :ListQuarantines;
    quarantines @60 :Quarantines;
    listUnreadable @61 :ListUnreadable;
    unreadable @62 :Unreadable;

    offerJob @63 :OfferJob;             # gateway -> an idle trainer: there is work; a hint, never answered
    otherProtocol @66 :Void;            # "yours I do not read; mine stand in this envelope": read in any protocol, as error is

    setServing @67 :SetServing;         # gateway -> registry; answered models [the model]
    loadVersion @68 :LoadVersion;       # gateway -> inferencer; answered ok once it is loaded and warm

    # gateway -> registry, and the answers
    createBackup @69 :CreateBackup;     # answered backups [the one that has begun]
    listBackups @70 :ListBackups;
    backups @71 :Backups;
    deleteBackup @72 :DeleteBackup;     # answered ok
    listBackupFiles @73 :ListBackupFiles;
    backupFiles @74 :BackupFiles;
    readBackup @75 :ReadBackup;         # answered ok with one payload frame of at most 4 MiB
  }
}

struct Error {
  code @0 :UInt8;               # lib/base/error.h; an unknown one is read as internal
  message @1 :Text;
  retryAfterMs @2 :UInt32;      # 0: not said
  path @3 :Text;                # JSON path of what is wrong in the asker's document; empty: none
}

enum Role { trainer @0; inferencer @1; }

struct VersionKey {
  model @0 :Text;
  version @1 :UInt64;
}

struct Hello {
  release @0 :Text;             # name of the installation; workers of another one are refused
  role @1 :Role;
  workerId @2 :Text;            # random per process start
  host @3 :Text;                # for people
}

struct Welcome {
  gatewayId @0 :Text;
}

struct Heartbeat {
  credits @0 :UInt32;           # requests this gateway may have outstanding here, in all; a trainer's: 1 idle, 0 busy
  loaded @1 :List(VersionKey);
  draining @2 :Bool;            # finishing what it has; send nothing new
}

struct Infer {
  model @0 :Text;
  version @1 :UInt64;
  inputs @2 :List(Records.TensorSpec);  # concrete shapes, the batch first
  alone @3 :Bool;               # in a batch of its own: it was with a process that was lost
}

struct Inferred {
  outputs @0 :List(Records.TensorSpec);
  batchRows @1 :UInt32;         # of the batch it ran in
  queueUs @2 :UInt32;
  computeUs @3 :UInt32;
}

struct Cancel {
  correlation @0 :UInt64;
}

struct RunJob {
  job @0 :Records.Job;
  lease @1 :Records.Lease;
}

struct OfferJob {
  job @0 :Text;                 # that waited when it was offered; a claim gets the oldest
}

struct Inspect {
  file @0 :Records.StoredFile;
  signature @1 :Records.Signature;  # inputs as the uploader gave them; outputs may be empty
}

struct Inspected {
  signature @0 :Records.Signature;  # completed by a trial run
}

struct UploadOpened { upload @0 :Text; }
struct AbortUpload { upload @0 :Text; }
struct GetUpload { upload @0 :Text; }
struct UploadedFiles { files @0 :List(Records.StoredFile); }
struct GetChunk { digest @0 :Data; }

struct UploadPart {
  upload @0 :Text;
  file @1 :Text;
  offsetBytes @2 :UInt64;       # of this part in the file as sent; a gap is refused
  last @3 :Bool;                # the file ends with this part
  decompress @4 :Bool;          # gunzip while storing when it is gzip; a ".gz" at the end of the name is cut off
}

struct CommitDataset {
  upload @0 :Text;
  name @1 :Text;
  actor @2 :Text;
}

struct DatasetStored {
  dataset @0 :Records.Dataset;
  created @1 :Bool;             # false: the same content was there already
}

struct GetDataset {
  name @0 :Text;
  version @1 :UInt64;           # 0: the newest
}

struct ListDatasets {
  name @0 :Text;                # empty: the newest version of each; else all versions of this one
  after @1 :Text;               # of names: the last one of the page before; empty: from the start
  limit @2 :UInt32;             # 0: 100
  afterVersion @3 :UInt64;      # of versions: the last one of the page before; 0: from the start
}

struct Datasets { items @0 :List(Records.Dataset); }

struct CreateJob {
  job @0 :Records.Job;          # document, model, dataset, datasetVersion (0: newest), seed, requestId, actor are read; the rest is given
  idempotencyKey @1 :Text;      # the same key of the same actor again answers the job made first, within a day; empty: none
}

struct GetJob { id @0 :Text; }
struct CancelJob { id @0 :Text; }

struct ListJobs {
  before @0 :Text;              # the last id of the page before; empty: from the newest
  limit @1 :UInt32;             # 0: 100
}

struct Jobs { items @0 :List(Records.Job); }

struct ListJobEvents {
  job @0 :Text;
  after @1 :UInt64;             # event id; 0: from the start
  limit @2 :UInt32;             # 0: 100
}

struct JobEvents { items @0 :List(Records.JobEvent); }

struct ClaimJob {
  worker @0 :Text;
  number @1 :UInt64;            # one more once the last claim's answer has come; the same number has the same answer
}

struct ReportJob {
  lease @0 :Records.Lease;
  events @1 :List(Records.JobEvent);    # ids and times are given by the registry; none: only renew
  number @2 :UInt64;            # of reports with events, dense from 1 per lease: repeats are known by it; 0: only renew
}

struct JobOrders {
  cancel @0 :Bool;
  leaseMs @1 :UInt32;
}

struct CommitCheckpoint {
  lease @0 :Records.Lease;
  upload @1 :Text;
}

struct GetCheckpoint { job @0 :Text; }
struct Checkpoints { items @0 :List(Records.Checkpoint); }

struct Publish {
  lease @0 :Records.Lease;
  upload @1 :Text;
  signature @2 :Records.Signature;
  metrics @3 :List(Records.Metric);
}

enum Outcome { failed @0; cancelled @1; released @2; }

struct EndAttempt {
  lease @0 :Records.Lease;
  outcome @1 :Outcome;          # released: put it back, the trainer is going away
  reason @2 :Text;
  message @3 :Text;
  retry @4 :Bool;               # failed, but another try may do better
}

struct CommitVersion {
  upload @0 :Text;
  model @1 :Text;
  signature @2 :Records.Signature;
  actor @3 :Text;
  idempotencyKey @4 :Text;      # as createJob's, over model, file and signature; empty: none
}

struct GetVersion {
  model @0 :Text;
  version @1 :UInt64;           # 0: by alias
  alias @2 :Text;               # empty, and version 0: the latest
}

struct ListVersions {
  model @0 :Text;
  after @1 :UInt64;
  limit @2 :UInt32;             # 0: 100
}

struct Versions { items @0 :List(Records.Version); }

struct GetModel { model @0 :Text; }

struct ListModels {
  after @0 :Text;
  limit @1 :UInt32;             # 0: 100
}

struct Models { items @0 :List(Records.Model); }

struct MoveAlias {
  model @0 :Text;
  alias @1 :Text;
  to @2 :UInt64;                # 0: delete
  checkExpected @3 :Bool;
  expected @4 :UInt64;          # with checkExpected: the version it must be at now; 0: not set
  reason @5 :Text;
  actor @6 :Text;
}

struct SetServing {
  model @0 :Text;
  served @1 :Bool;
  actor @2 :Text;
}

struct LoadVersion { version @0 :VersionKey; }

struct ListAliasMoves {
  model @0 :Text;
  alias @1 :Text;               # empty: of all aliases
  before @2 :UInt64;            # number of the last one of the page before; 0: from the newest; needs an alias
  limit @3 :UInt32;             # 0: 100
}

struct AliasMoves { items @0 :List(Records.AliasMove); }

struct QuarantineFile { quarantine @0 :Records.Quarantine; }  # its time is given by the registry

struct LiftQuarantine {
  model @0 :Text;
  version @1 :UInt64;
  actor @2 :Text;
}

struct ListQuarantines {
  after @0 :Data;               # the last digest of the page before; empty: from the start
  limit @1 :UInt32;             # 0: 100
}

struct Quarantines { items @0 :List(Records.Quarantine); }

# A record that this release cannot read: damaged, or of a later release. It is set aside, never changed.
struct UnreadableRecord {
  family @0 :Text;
  key @1 :Text;                 # bytes outside of printable ASCII as \\xNN
  sizeBytes @2 :UInt64;
  reason @3 :Text;
}

struct ListUnreadable { limit @0 :UInt32; }  # 0: 100

struct Unreadable {
  items @0 :List(UnreadableRecord);
  total @1 :UInt64;             # known so far
}

enum BackupState { running @0; succeeded @1; failed @2; }

struct Backup {
  id @0 :Text;                  # the time it began, as in 20260131T120000Z
  state @1 :BackupState;
  startedMs @2 :Int64;          # since 1970, as endedMs
  endedMs @3 :Int64;            # 0: not yet
  revision @4 :UInt64;          # everything up to it is in there
  chunks @5 :UInt64;            # that it names
  sizeBytes @6 :UInt64;         # of these chunks and of the database
  copiedBytes @7 :UInt64;       # of them, those that no earlier backup had
  damagedChunks @8 :UInt64;     # that the registry could not read itself, and which are missing here
  reason @9 :Text;              # of a failure
  actor @10 :Text;
  release @11 :Text;            # of the software that made it
}

struct CreateBackup {
  keep @0 :UInt32;              # once it is made, older ones than so many are deleted; 0: none is
  actor @1 :Text;
}

struct ListBackups { id @0 :Text; }  # empty: all of them

struct Backups { items @0 :List(Backup); }  # the oldest first

struct DeleteBackup {
  id @0 :Text;
  actor @1 :Text;
}

struct BackupFile {
  name @0 :Text;                # with its folders, from the backup folder on
  sizeBytes @1 :UInt64;
}

struct ListBackupFiles {
  id @0 :Text;
  after @1 :UInt64;             # how many of its files to pass over
  limit @2 :UInt32;             # 0: 100
}

struct BackupFiles { items @0 :List(BackupFile); }  # what says that the backup is whole comes last

struct ReadBackup {
  id @0 :Text;
  file @1 :Text;
  offsetBytes @2 :UInt64;
}

enum Subject { job @0; model @1; dataset @2; quarantine @3; nothing @4; }

struct Changed {
  # One per commit; a gap means: read again. About every second the last one comes once more, with `nothing`. A restore
  # passes over kRestoredRevisions (limits.h) or more: numbers may have been given anew.
  revision @0 :UInt64;
  subject @1 :Subject;
  key @2 :Text;                 # job id, model name, dataset name, digest of a file as hex
  lastEvent @3 :UInt64;         # jobs: id of the newest event
  state @4 :Records.JobState;   # jobs
}
