# The SQLite page cache. The extension contains it; libbufpool_sqlite3.so adds the entry points for LD_PRELOAD.
file(GLOB sqlite_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/sqlite/*.c)
set(preload_sources ${sqlite_sources})
list(FILTER sqlite_sources EXCLUDE REGEX "/preload[^/]*\\.c$")
list(FILTER preload_sources INCLUDE REGEX "/preload[^/]*\\.c$")
set(preload_script ${CMAKE_CURRENT_SOURCE_DIR}/sqlite/preload.map)

add_library(bufpool_sqlite_objects OBJECT ${sqlite_sources})
bufpool_configure(bufpool_sqlite_objects)
target_include_directories(bufpool_sqlite_objects PRIVATE include)

add_library(bufpool_sqlite3 MODULE $<TARGET_OBJECTS:bufpool_sqlite_objects> ${preload_sources})
bufpool_configure(bufpool_sqlite3)
target_compile_options(bufpool_sqlite3 PRIVATE -iquote${CMAKE_CURRENT_SOURCE_DIR}/src) # config_options.h
set_target_properties(bufpool_sqlite3 PROPERTIES PREFIX lib SUFFIX .so LINK_DEPENDS ${preload_script})
target_link_libraries(bufpool_sqlite3 PRIVATE bufpool_static)
target_link_options(bufpool_sqlite3 PRIVATE
    -Wl,--version-script=${preload_script} -Wl,--exclude-libs,ALL ${bufpool_shared_options})
