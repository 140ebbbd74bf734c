#include "tests/engines/asked.h"

#include "common/store/store.h"

struct asked asked;

void __real_store_put(struct store *s, struct store_req *req, const char *key, const struct store_body *body,
                      const struct store_meta *meta, unsigned flags);
void __wrap_store_put(struct store *s, struct store_req *req, const char *key, const struct store_body *body,
                      const struct store_meta *meta, unsigned flags);
void __real_store_get(struct store *s, struct store_req *req, const char *key, uint64_t off, uint64_t len,
                      store_sink_fn sink, void *arg, struct store_info *ret_info);
void __wrap_store_get(struct store *s, struct store_req *req, const char *key, uint64_t off, uint64_t len,
                      store_sink_fn sink, void *arg, struct store_info *ret_info);
void __real_store_list(struct store *s, struct store_req *req, const char *prefix, const char *after, store_item_fn item,
                       void *arg);
void __wrap_store_list(struct store *s, struct store_req *req, const char *prefix, const char *after, store_item_fn item,
                       void *arg);
void __real_store_delete(struct store *s, struct store_req *req, const char *const *keys, size_t n);
void __wrap_store_delete(struct store *s, struct store_req *req, const char *const *keys, size_t n);
void __real_store_head(struct store *s, struct store_req *req, const char *key, struct store_info *ret_info);
void __wrap_store_head(struct store *s, struct store_req *req, const char *key, struct store_info *ret_info);

void __wrap_store_put(struct store *s, struct store_req *req, const char *key, const struct store_body *body,
                      const struct store_meta *meta, unsigned flags)
{
    asked.puts++;
    __real_store_put(s, req, key, body, meta, flags);
}

void __wrap_store_get(struct store *s, struct store_req *req, const char *key, uint64_t off, uint64_t len,
                      store_sink_fn sink, void *arg, struct store_info *ret_info)
{
    asked.gets++;
    __real_store_get(s, req, key, off, len, sink, arg, ret_info);
}

void __wrap_store_list(struct store *s, struct store_req *req, const char *prefix, const char *after, store_item_fn item,
                       void *arg)
{
    asked.lists++;
    __real_store_list(s, req, prefix, after, item, arg);
}

void __wrap_store_delete(struct store *s, struct store_req *req, const char *const *keys, size_t n)
{
    asked.deletes++;
    __real_store_delete(s, req, keys, n);
}

void __wrap_store_head(struct store *s, struct store_req *req, const char *key, struct store_info *ret_info)
{
    asked.heads++;
    __real_store_head(s, req, key, ret_info);
}
