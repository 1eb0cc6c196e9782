# The C library: bufpool::shared, bufpool::static, and bufpool::bufpool, which is the shared one.
file(GLOB bufpool_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/src/*.c)
set(version_script ${CMAKE_CURRENT_SOURCE_DIR}/src/bufpool.map)

# One set of position-independent objects serves both.
add_library(bufpool_objects OBJECT ${bufpool_sources})
bufpool_configure(bufpool_objects)
bufpool_use_uring(bufpool_objects)
target_include_directories(bufpool_objects PRIVATE include)
# In a program that links the archive and binds symbols lazily the first call of one would come in a handler, whose stack
# may not have the 3 KiB for that.
target_compile_options(bufpool_objects PRIVATE -fno-plt)
target_link_libraries(bufpool_objects PRIVATE Threads::Threads)

add_library(bufpool_static STATIC $<TARGET_OBJECTS:bufpool_objects>)
add_library(bufpool_shared SHARED $<TARGET_OBJECTS:bufpool_objects>)
foreach(kind static shared)
    set_target_properties(bufpool_${kind} PROPERTIES OUTPUT_NAME bufpool EXPORT_NAME ${kind} LINKER_LANGUAGE C)
    target_include_directories(bufpool_${kind} PUBLIC
        $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
    target_link_libraries(bufpool_${kind} PRIVATE Threads::Threads ${CMAKE_DL_LIBS})
    if(BUFPOOL_URING_LIBRARY) # who links the installed archive finds liburing where it is on that machine
        target_link_libraries(bufpool_${kind} PRIVATE
            $<BUILD_INTERFACE:${BUFPOOL_URING_LIBRARY}> $<INSTALL_INTERFACE:uring>)
    endif()
    add_library(bufpool::${kind} ALIAS bufpool_${kind})
endforeach()

set_target_properties(bufpool_shared PROPERTIES
    VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR} LINK_DEPENDS ${version_script})
target_link_options(bufpool_shared PRIVATE
    -Wl,--version-script=${version_script} -Wl,--exclude-libs,ALL ${bufpool_shared_options} ${bufpool_sanitizers})
# Whoever links the instrumented archive needs the sanitizers' runtime.
target_link_options(bufpool_static INTERFACE ${bufpool_sanitizers})

add_library(bufpool INTERFACE)
target_link_libraries(bufpool INTERFACE bufpool_shared)
add_library(bufpool::bufpool ALIAS bufpool)
