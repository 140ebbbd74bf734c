/* Every key of Litestream's configuration, v0.3.13 and v0.5, and what becomes of it. */
#include "ctl/import.h"

#define OTHER_STORE "another kind of store: walsup has s3 and file"
#define GOOGLE ". Google's storage speaks S3 as well: endpoint = https://storage.googleapis.com and an HMAC key"
#define SSE_C "write sse = C and sse-customer-key-file = FILE into the target, with the key in a file of its own"

#define TOP(name, act, why) {IMPORT_TOP, name, IMPORT_##act, why}
#define DB(name, act, why) {IMPORT_DB, name, IMPORT_##act, why}
#define REPLICA(name, act, why) {IMPORT_REPLICA, name, IMPORT_##act, why}

static const struct import_key key[] = {
    TOP("addr", READ, ""),
    TOP("dbs", READ, ""),
    TOP("exec", READ, ""),
    TOP("heartbeat-interval", NOTE, "a timer of yours decides how often walsupctl status is asked"),
    TOP("heartbeat-url", NOTE,
        "walsupd calls no URL; 'walsupctl status && curl URL' in a timer does, since status says "
        "by "
        "its exit status whether all is well"),
    TOP("l0-retention", READ, ""),
    TOP("l0-retention-check-interval", NOTE, "walsup knows when the next file is due"),
    TOP("levels", READ, ""),
    TOP("logging", READ, ""),
    TOP("mcp-addr", NOTE, "walsup has no MCP server"),
    TOP("retention", READ, ""),
    TOP("shutdown-sync-interval", NOTE, "walsup retries with growing pauses"),
    TOP("shutdown-sync-timeout", READ, ""),
    TOP("snapshot", READ, ""),
    TOP("socket", NOTE, "walsup has a control socket of its own, socket = in [walsup]"),
    TOP("validation", READ, ""),
    TOP("verify-compaction", NOTE, "walsup verifies what it merges always"),

    DB("busy-timeout", NOTE, "walsup waits for no lock that an application holds"),
    DB("checkpoint-interval", NOTE, "walsup checkpoints by the length of the WAL"),
    DB("dir", READ, ""),
    DB("directory", READ, ""),
    DB("max-checkpoint-page-count", NOTE, "wal-limit is what holds writers back, in bytes"),
    DB("max-sync-wal-bytes", NOTE, "walsup cuts at 64 MiB by itself"),
    DB("meta-dir", NOTE, "walsup's own files are in state-dir"),
    DB("meta-path", NOTE, "walsup's own files are in state-dir"),
    DB("min-checkpoint-page-count", READ, ""),
    DB("monitor-interval", NOTE, "walsup is told of changes; scan-interval is the safety net"),
    DB("path", READ, ""),
    DB("pattern", READ, ""),
    DB("recursive", READ, ""),
    DB("replica", READ, ""),
    DB("replicas", READ, ""),
    DB("restore-if-db-not-exists", NOTE,
       "walsupctl restore --if-db-not-exists --if-replica-exists, "
       "before the application starts"),
    DB("snapshot", READ, ""),
    DB("truncate-page-n", NOTE, "walsup never truncates the WAL; wal-limit holds writers back"),
    DB("watch", READ, ""),

    REPLICA("access-key-id", READ, ""),
    REPLICA("account-key", NOTE, OTHER_STORE),
    REPLICA("account-name", NOTE, OTHER_STORE),
    REPLICA("age", REFUSE, "walsup does not encrypt: what was encrypted would be stored readable"),
    REPLICA("auto-recover", NOTE, "walsup captures what it lost by itself"),
    REPLICA("bucket", READ, ""),
    REPLICA("client-cert", NOTE, OTHER_STORE),
    REPLICA("client-key", NOTE, OTHER_STORE),
    REPLICA("concurrency", NOTE, "max-connections of the target is for all databases together"),
    REPLICA("concurrent-writes", NOTE, OTHER_STORE),
    REPLICA("creds", NOTE, OTHER_STORE),
    REPLICA("endpoint", READ, ""),
    REPLICA("force-path-style", READ, ""),
    REPLICA("host", NOTE, OTHER_STORE),
    REPLICA("host-key", NOTE, OTHER_STORE),
    REPLICA("jwt", NOTE, OTHER_STORE),
    REPLICA("key-path", NOTE, OTHER_STORE),
    REPLICA("max-reconnects", NOTE, OTHER_STORE),
    REPLICA("max-sync-ltx-files", NOTE, "walsup uploads what is there"),
    REPLICA("name", READ, ""),
    REPLICA("nkey", NOTE, OTHER_STORE),
    REPLICA("part-size", NOTE, "walsup chooses it by the size of the object"),
    REPLICA("password", NOTE, OTHER_STORE),
    REPLICA("path", READ, ""),
    REPLICA("reconnect-wait", NOTE, OTHER_STORE),
    REPLICA("region", READ, ""),
    REPLICA("require-content-md5", NOTE, "walsup always sends it where S3 asks for it"),
    REPLICA("retention", READ, ""),
    REPLICA("retention-check-interval", NOTE, "walsup knows when the next file is due"),
    REPLICA("root-cas", NOTE, OTHER_STORE),
    REPLICA("sas-token", NOTE, OTHER_STORE),
    REPLICA("secret-access-key", READ, ""),
    REPLICA("seed", NOTE, OTHER_STORE),
    REPLICA("sign-payload", NOTE, "walsup always signs it"),
    REPLICA("skip-verify", READ, ""),
    REPLICA("snapshot-interval", READ, ""),
    REPLICA("sse-customer-algorithm", DROP, SSE_C),
    REPLICA("sse-customer-key", DROP, SSE_C),
    REPLICA("sse-customer-key-path", DROP, SSE_C),
    REPLICA("sse-kms-key-id", NOTE, "write sse = aws:kms and sse-kms-key-id into the target"),
    REPLICA("storage-class", READ, ""),
    REPLICA("sync-interval", READ, ""),
    REPLICA("timeout", NOTE, OTHER_STORE),
    REPLICA("tls", NOTE, OTHER_STORE),
    REPLICA("token", NOTE, OTHER_STORE),
    REPLICA("type", READ, ""),
    REPLICA("url", READ, ""),
    REPLICA("user", NOTE, OTHER_STORE),
    REPLICA("username", NOTE, OTHER_STORE),
    REPLICA("validation-interval", READ, ""),
    REPLICA("webdav-password", NOTE, OTHER_STORE),
    REPLICA("webdav-url", NOTE, OTHER_STORE),
    REPLICA("webdav-username", NOTE, OTHER_STORE),
};

const struct import_key *import_key(enum import_where where, const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(key); i++)
        if (key[i].where == where && !strcmp(key[i].name, name))
            return &key[i];
    return where == IMPORT_TOP ? import_key(IMPORT_REPLICA, name) : NULL;
}

const char *import_no_type(const char *type)
{
    static const struct {
        const char *type, *why;
    } other[] = {
        {"gs", OTHER_STORE GOOGLE},
        {"gcs", OTHER_STORE GOOGLE},
        {"abs", OTHER_STORE ". Replicate to a bucket or a directory instead"},
        {"sftp", OTHER_STORE ". Replicate to a bucket, or to a directory in which that server is mounted"},
        {"webdav", OTHER_STORE ". Replicate to a bucket, or to a directory in which that server is mounted"},
        {"webdavs", OTHER_STORE ". Replicate to a bucket, or to a directory in which that server is mounted"},
        {"nats", OTHER_STORE ". Replicate to a bucket or a directory instead"},
        {"oss", OTHER_STORE ". That storage speaks S3 as well: type = s3 with its endpoint"},
    };
    if (!strcmp(type, "s3") || !strcmp(type, "file"))
        return NULL;
    for (size_t i = 0; i < ARRAY_LEN(other); i++)
        if (!strcmp(type, other[i].type))
            return other[i].why;
    return "no kind of store that Litestream knows";
}
