/* s3_wrap.h - both sides of the linker's --wrap: what libs3's calls arrive at, and the real
 * functions. The list is LIBS3_WRAPS of the Makefile. The __wrap_ functions are in s3_libs3.c;
 * what speaks to libcurl itself has to use the __real_ names. */
#ifndef WALSUP_S3_WRAP_H
#define WALSUP_S3_WRAP_H

#include <curl/curl.h>

CURLcode __real_curl_global_init(long flags);
CURLcode __wrap_curl_global_init(long flags);
CURLM *__real_curl_multi_init(void);
CURLM *__wrap_curl_multi_init(void);
CURLMcode __real_curl_multi_cleanup(CURLM *m);
CURLMcode __wrap_curl_multi_cleanup(CURLM *m);
CURLMcode __wrap_curl_multi_perform(CURLM *m, int *running);
CURLMcode __wrap_curl_multi_fdset(CURLM *m, fd_set *r, fd_set *w, fd_set *x, int *max);
CURLMcode __wrap_curl_multi_timeout(CURLM *m, long *ms);
CURLMsg *__real_curl_multi_info_read(CURLM *m, int *left);
CURLMsg *__wrap_curl_multi_info_read(CURLM *m, int *left);
CURLMcode __real_curl_multi_add_handle(CURLM *m, CURL *easy);
CURLMcode __wrap_curl_multi_add_handle(CURLM *m, CURL *easy);
CURLMcode __real_curl_multi_remove_handle(CURLM *m, CURL *easy);
CURLMcode __wrap_curl_multi_remove_handle(CURLM *m, CURL *easy);
CURL *__real_curl_easy_init(void);
CURL *__wrap_curl_easy_init(void);
void __real_curl_easy_cleanup(CURL *easy);
void __wrap_curl_easy_cleanup(CURL *easy);
void __real_curl_easy_reset(CURL *easy);
void __wrap_curl_easy_reset(CURL *easy);
CURLcode __real_curl_easy_perform(CURL *easy);
CURLcode __wrap_curl_easy_perform(CURL *easy);
CURLcode __real_curl_easy_setopt(CURL *easy, CURLoption o, ...);
CURLcode __wrap_curl_easy_setopt(CURL *easy, CURLoption o, ...);
CURLcode __real_curl_easy_getinfo(CURL *easy, CURLINFO what, ...);
CURLcode __wrap_curl_easy_getinfo(CURL *easy, CURLINFO what, ...);
struct curl_slist *__real_curl_slist_append(struct curl_slist *list, const char *text);
struct curl_slist *__wrap_curl_slist_append(struct curl_slist *list, const char *text);
void __real_curl_slist_free_all(struct curl_slist *list);
void __wrap_curl_slist_free_all(struct curl_slist *list);

#endif
