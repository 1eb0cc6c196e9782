# How every target of ours is compiled: bufpool_configure(TARGET).
if(PROJECT_IS_TOP_LEVEL AND NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
    set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "Build type" FORCE)
endif()

set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)

set(bufpool_warnings -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wundef)
if(BUFPOOL_WERROR)
    list(APPEND bufpool_warnings -Werror)
endif()

set(bufpool_sanitizers "")
if(BUFPOOL_SANITIZE)
    list(JOIN BUFPOOL_SANITIZE "," names)
    set(bufpool_sanitizers -fsanitize=${names} -fno-sanitize-recover=all -fno-omit-frame-pointer)
endif()

function(bufpool_configure target)
    set_target_properties(${target} PROPERTIES
        C_STANDARD 11 C_STANDARD_REQUIRED ON C_EXTENSIONS OFF
        C_VISIBILITY_PRESET hidden POSITION_INDEPENDENT_CODE ON)
    target_compile_definitions(${target} PRIVATE _GNU_SOURCE)
    target_compile_options(${target} PRIVATE ${bufpool_warnings} ${bufpool_sanitizers})
    target_link_options(${target} PRIVATE ${bufpool_sanitizers})
endfunction()

# For shared objects: they install signal handlers, so dlclose must not unload them, and the loader must not bind a symbol
# at its first call, which may come in a handler (3 KiB of its stack, and perhaps a lock); nothing may be left undefined,
# except the symbols that the sanitizers' runtime brings.
set(bufpool_shared_options -Wl,-z,nodelete -Wl,-z,now)
if(NOT BUFPOOL_SANITIZE)
    list(APPEND bufpool_shared_options -Wl,-z,defs)
endif()
