# What `cmake --install` puts where. The wheel takes the component "python" only.
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/bufpool)

install(TARGETS bufpool_shared bufpool_static bufpool EXPORT bufpool
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime NAMELINK_COMPONENT development
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development)
install(DIRECTORY include/bufpool DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT development)
install(EXPORT bufpool NAMESPACE bufpool:: FILE bufpool-targets.cmake DESTINATION ${package_dir} COMPONENT development)

configure_package_config_file(cmake/bufpool-config.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/bufpool-config.cmake
    INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/bufpool-config-version.cmake
    COMPATIBILITY SameMinorVersion)
install(FILES
    ${CMAKE_CURRENT_BINARY_DIR}/bufpool-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/bufpool-config-version.cmake
    DESTINATION ${package_dir} COMPONENT development)

install(FILES gdb/bufpool_gdb.py gdb/bufpool_layout.py DESTINATION ${CMAKE_INSTALL_DATADIR}/bufpool COMPONENT development)

# pkg-config counts from the .pc file, so that the installed tree can be moved.
foreach(name LIBDIR INCLUDEDIR DATADIR)
    if(IS_ABSOLUTE "${CMAKE_INSTALL_${name}}")
        set(pc_${name} "${CMAKE_INSTALL_${name}}")
    else()
        set(pc_${name} "\${prefix}/${CMAKE_INSTALL_${name}}")
    endif()
endforeach()
file(RELATIVE_PATH pc_up "${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig" "${CMAKE_INSTALL_PREFIX}")
string(REGEX REPLACE "/$" "" pc_up "${pc_up}")
set(pc_PREFIX "\${pcfiledir}/${pc_up}")
set(pc_URING "")
if(BUFPOOL_URING_LIBRARY)
    set(pc_URING " -luring")
endif()
configure_file(cmake/bufpool.pc.in ${CMAKE_CURRENT_BINARY_DIR}/bufpool.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/bufpool.pc
    DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT development)

if(TARGET bufpool_sqlite3 AND BUFPOOL_SQLITE)
    install(TARGETS bufpool_sqlite3 LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime)
endif()
