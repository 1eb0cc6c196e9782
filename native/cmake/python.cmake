# The Python extension bufpool._native: cffi in API mode, the stable ABI of CPython 3.10, the library linked in and hidden.
find_package(Python 3.10 COMPONENTS Interpreter Development.Module)
if(NOT Python_FOUND)
    message(FATAL_ERROR "bufpool._native needs CPython >= 3.10 and its C headers (Debian: python3-dev); "
        "found \"${Python_EXECUTABLE}\", version \"${Python_VERSION}\", headers \"${Python_INCLUDE_DIRS}\"")
endif()

set(cdef ${CMAKE_CURRENT_SOURCE_DIR}/python/bufpool.cdef.h)
set(prelude ${CMAKE_CURRENT_SOURCE_DIR}/python/prelude.h)
set(generated ${CMAKE_CURRENT_BINARY_DIR}/_native.c)
add_custom_command(OUTPUT ${generated}
    COMMAND ${Python_EXECUTABLE} -m cffi.gen_src read-sources bufpool._native ${cdef} ${prelude} ${generated}
    DEPENDS ${cdef} ${prelude} VERBATIM)

# The C code that Python needs beside the public header, if any.
file(GLOB python_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/python/*.c)

# The suffix is set by hand: CMake knows USE_SABI only from 3.26 on.
Python_add_library(bufpool_python MODULE ${generated} ${python_sources} $<TARGET_OBJECTS:bufpool_sqlite_objects>)
bufpool_configure(bufpool_python)
set_target_properties(bufpool_python PROPERTIES PREFIX "" OUTPUT_NAME _native SUFFIX .abi3.so)
# Generated code is not ours to keep free of warnings.
set_source_files_properties(${generated} PROPERTIES COMPILE_OPTIONS -w)
target_compile_definitions(bufpool_python PRIVATE Py_LIMITED_API=0x030A0000)
target_include_directories(bufpool_python PRIVATE python sqlite)
target_link_libraries(bufpool_python PRIVATE bufpool_static)
target_link_options(bufpool_python PRIVATE -Wl,--exclude-libs,ALL -Wl,-z,nodelete -Wl,-z,now)

install(TARGETS bufpool_python bufpool_sqlite3 LIBRARY DESTINATION bufpool COMPONENT python)
install(FILES gdb/bufpool_gdb.py gdb/bufpool_layout.py DESTINATION bufpool COMPONENT python)
