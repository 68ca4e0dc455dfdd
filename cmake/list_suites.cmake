# cmake -D PROGRAM=... -D OUTPUT=... -P list_suites.cmake: writes a ctest test for each suite that PROGRAM lists.
execute_process(COMMAND ${PROGRAM} --gtest_list_tests OUTPUT_VARIABLE listing COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "(^|\n)[A-Za-z][A-Za-z0-9_/]*\\." suites "${listing}")
set(tests "")
foreach(suite IN LISTS suites)
  string(REGEX REPLACE "[\n.]" "" suite "${suite}")
  string(APPEND tests "add_test([=[${suite}]=] [=[${PROGRAM}]=] [=[--gtest_filter=${suite}.*]=])\n"
    "set_tests_properties([=[${suite}]=] PROPERTIES TIMEOUT 900)\n")
endforeach()
if(NOT tests)
  message(FATAL_ERROR "${PROGRAM} lists no suite of tests:\n${listing}")
endif()
file(WRITE ${OUTPUT} "${tests}")
