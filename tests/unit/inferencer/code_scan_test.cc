#include "services/inferencer/code_scan.h"

#include <gtest/gtest.h>

#include "services/inferencer/operator_list.h"

namespace slipway::inferencer {
namespace {

std::string refusal(std::string_view code) {
  const auto scanned = scan_code("code/m.py", code);
  return scanned ? "" : scanned.error().message;
}

TEST(CodeScan, TakesWhatTorchWrites) {
  EXPECT_EQ(refusal("class net(Module):\n  __parameters__ = [\"w\", ]\n  training : bool\n"
                    "  def forward(self: __torch__.net,\n    x: Tensor) -> Tensor:\n"
                    "    _0 = __torch__.torch.nn.functional.relu\n    x0 = torch.relu(torch.add(x, self.w))\n"
                    "    a = ops.prim.min(1, 2)\n    b = annotate(List[float], x.tolist())\n"
                    "    ops.prim.RaiseException(\"do not torch.save( this\")\n"
                    "    return _0(x0, )\n"),
            "");
}

TEST(CodeScan, RefusesACallHoweverItIsWritten) {
  for (const std::string_view call :
       {"torch.from_file('/etc/passwd')", "torch.from_file (\"x\")", "torch . from_file('x')",
        "torch.\\\n  from_file\\\n('x')", "torch.from_file # (\n('x')", "y = [torch.from_file\n('x')]"}) {
    EXPECT_TRUE(refusal(call).contains("torch.from_file")) << call;
  }
  EXPECT_TRUE(refusal("ops . aten . save (x)").contains("ops.aten.save"));
  EXPECT_TRUE(refusal("ops.prim.PythonOp(x)").contains("ops.prim.PythonOp"));
}

// The compiler makes these of statements, and the interpreter believes it.
TEST(CodeScan, RefusesPrimitivesThatOnlyTheCompilerMayWrite) {
  for (const std::string name : {"tolist", "TupleIndex", "TupleUnpack", "unchecked_cast", "Uninitialized"})
    EXPECT_FALSE(refusal("x = ops.prim." + name + "(y, 7)").empty()) << name;
}

TEST(CodeScan, RefusesTorchsOwnClasses) {
  EXPECT_FALSE(refusal("def f(x: __torch__.torch.classes.quantized.Conv2dPackedParamsBase):\n  return 1\n").empty());
  EXPECT_FALSE(refusal("x = __torch__.torch\n.classes.a.b()").empty());
}

TEST(CodeScan, RefusesHooksOfThePickler) {
  EXPECT_TRUE(refusal("def __setstate__(self, state):\n  return\n").contains("__setstate__"));
}

TEST(CodeScan, BoundsTheDepthOfBracketsAndBlocks) {
  const auto nested = [](int depth) { return std::string(depth, '(') + "x" + std::string(depth, ')'); };
  EXPECT_EQ(refusal(nested(200)), "");
  EXPECT_FALSE(refusal(nested(201)).empty());
  std::string blocks;
  for (int i = 0; i < 202; ++i) blocks += std::string(2 * i, ' ') + "if x:\n";
  EXPECT_FALSE(refusal(blocks).empty());
}

TEST(OperatorList, NamesOverloadsAndNotWhateverHasTheSameName) {
  EXPECT_TRUE(is_allowed_operator("aten::add.Tensor"));
  EXPECT_FALSE(is_allowed_operator("aten::add.out"));
  EXPECT_TRUE(is_allowed_operator("aten::relu"));
  EXPECT_FALSE(is_allowed_operator("aten::view.dtype"));
  EXPECT_TRUE(is_allowed_operator("aten::view"));
  for (const std::string_view gone :
       {"aten::from_file", "aten::save", "aten::as_strided", "aten::empty.memory_format", "aten::_pad_packed_sequence",
        "aten::_native_multi_head_attention", "aten::_transformer_encoder_layer_fwd", "aten::_nested_tensor_from_mask",
        "aten::promote_types", "prim::Print", "prim::PythonOp", "prim::CallMethod", "prim::CreateObject"})
    EXPECT_FALSE(is_allowed_operator(gone)) << gone;
  EXPECT_TRUE(is_allowed_name("aten", "add"));
  EXPECT_FALSE(is_allowed_name("aten", "ad"));
  EXPECT_FALSE(is_allowed_name("aten", "add.Tensor.x"));
}

}  // namespace
}  // namespace slipway::inferencer
