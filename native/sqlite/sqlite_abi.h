/* sqlite_abi.h: the few parts of SQLite's stable interface that we need, declared here so that no SQLite header is. */
#ifndef BUFPOOL_SQLITE_ABI_H
#define BUFPOOL_SQLITE_ABI_H

/* Result codes. */
enum { SQLITE_OK = 0, SQLITE_ERROR = 1, SQLITE_NOMEM = 7, SQLITE_MISUSE = 21 };

/* Operations of sqlite3_config(); both take a sqlite3_pcache_methods2 pointer and work before initialisation only. */
enum { SQLITE_CONFIG_PCACHE2 = 18, SQLITE_CONFIG_GETPCACHE2 = 19 };

/* The first version with these page cache methods: 3.7.10. */
enum { SQLITE_VERSION_PCACHE2 = 3007010 };

typedef struct sqlite3_pcache sqlite3_pcache; /* ours to define: one page cache */

typedef struct sqlite3_pcache_page {
    void *pBuf;   /* szPage bytes: the database page */
    void *pExtra; /* szExtra bytes: SQLite's own, the first 8 zero while SQLite has not seen the page */
} sqlite3_pcache_page;

typedef struct sqlite3_pcache_methods2 {
    int iVersion; /* 1 */
    void *pArg;
    int (*xInit)(void *arg);
    void (*xShutdown)(void *arg);
    sqlite3_pcache *(*xCreate)(int szPage, int szExtra, int bPurgeable);
    void (*xCachesize)(sqlite3_pcache *cache, int nCachesize);
    int (*xPagecount)(sqlite3_pcache *cache);
    sqlite3_pcache_page *(*xFetch)(sqlite3_pcache *cache, unsigned key, int createFlag);
    void (*xUnpin)(sqlite3_pcache *cache, sqlite3_pcache_page *page, int discard);
    void (*xRekey)(sqlite3_pcache *cache, sqlite3_pcache_page *page, unsigned oldKey, unsigned newKey);
    void (*xTruncate)(sqlite3_pcache *cache, unsigned iLimit);
    void (*xDestroy)(sqlite3_pcache *cache);
    void (*xShrink)(sqlite3_pcache *cache);
} sqlite3_pcache_methods2;

#endif
