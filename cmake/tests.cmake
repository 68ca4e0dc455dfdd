# slipway_test(TARGET [TORCH] SOURCES ... LIBRARIES ...): a program of unit tests.
#
# Test files spend their time in the same headers and say nothing about speed: they are compiled several at a time and
# hardly optimised, which takes a third of the time. What they test is optimised as ever.
include(GoogleTest)

function(slipway_test name)
  cmake_parse_arguments(arg "TORCH" "" "SOURCES;LIBRARIES" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  set(files_at_once 6)
  if(arg_TORCH)
    set(files_at_once 3)
  endif()
  set_target_properties(${name} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE ${files_at_once})
  target_compile_options(${name} PRIVATE -Wno-subobject-linkage)  # g++ takes a test file's own types for a header's
  target_link_libraries(${name} PRIVATE ${arg_LIBRARIES} GTest::gmock_main slipway_warnings)
  if(arg_TORCH)
    slipway_use_torch(${name})  # with the optimisation that its header was precompiled with
    slipway_discover_suites(${name})
  else()
    target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
    gtest_discover_tests(${name} DISCOVERY_TIMEOUT 120 PROPERTIES TIMEOUT 300)
  endif()
endfunction()

# slipway_discover_suites(TARGET): a ctest test for each suite of `TARGET`, named after it, not for each test: to load
# LibTorch takes a second, longer than most tests.
function(slipway_discover_suites target)
  set(suites ${CMAKE_CURRENT_BINARY_DIR}/${target}_suites.cmake)
  set(include ${CMAKE_CURRENT_BINARY_DIR}/${target}_include.cmake)
  file(CONFIGURE OUTPUT ${include} @ONLY CONTENT [[
if(EXISTS "@suites@")
  include("@suites@")
else()
  add_test(@target@_NOT_BUILT @target@_NOT_BUILT)
endif()
]])
  set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES ${include})
  add_custom_command(TARGET ${target} POST_BUILD VERBATIM
    BYPRODUCTS ${suites}
    COMMAND ${CMAKE_COMMAND} -D PROGRAM=$<TARGET_FILE:${target}> -D OUTPUT=${suites}
            -P ${CMAKE_SOURCE_DIR}/cmake/list_suites.cmake)
endfunction()
