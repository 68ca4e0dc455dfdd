# LibTorch as one target, with its headers precompiled once: they cost half a minute in every file otherwise.
find_package(Torch REQUIRED)
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/torch_pch.cc CONTENT "// Carries the precompiled header.\n" @ONLY)
add_library(slipway_torch_pch OBJECT ${CMAKE_BINARY_DIR}/torch_pch.cc)
target_include_directories(slipway_torch_pch SYSTEM PRIVATE ${TORCH_INCLUDE_DIRS})
target_link_libraries(slipway_torch_pch PRIVATE ${TORCH_LIBRARIES} slipway_warnings)
target_precompile_headers(slipway_torch_pch PRIVATE <torch/script.h> <torch/torch.h>)

# slipway_use_torch(TARGET): `TARGET` may include torch headers, precompiled.
function(slipway_use_torch target)
  target_include_directories(${target} SYSTEM PRIVATE ${TORCH_INCLUDE_DIRS})
  target_link_libraries(${target} PRIVATE ${TORCH_LIBRARIES} slipway_warnings)
  target_precompile_headers(${target} REUSE_FROM slipway_torch_pch)
endfunction()
