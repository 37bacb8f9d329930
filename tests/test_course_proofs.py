"""The graders of the course are proven: each catches the mistakes that students make and says in
words which, and accepts what is right however it was written."""
import importlib
import importlib.util
import re
import sys
import textwrap

import pytest
from conftest import ROOT
from course import equal, exercises
from course.one import lines_of, sentence

EXERCISES = {exercise.name: exercise for exercise in exercises(ROOT)}

# --------------------------------------------------------------------------------------------------
# Mistakes that students make. Each is an edit of the finished body, (old, new), and a part of the
# sentence that must come of it. For some exercises old is ..., and new the whole body.

MISTAKES = {
"lorid-1": [
    # agreement only within a round
    ("        if intuitive.keys() & deep.keys():",
     "        if same_answer(extract_answer(solution), extract_answer(deep_solution)):",
     "dr said earlier agrees"),
    # None agrees with None
    ("if (answer := extract_answer(text)) is not None:", "if True:\n                "
     "answer = extract_answer(text) or ''", "state no answer do not agree"),
    # answers compared as texts
    ("key = canonical(answer)", "key = answer", "canonical says so"),
    # a system that agrees with itself ends the vote
    ("if intuitive.keys() & deep.keys():",
     "if max((intuitive + deep).values(), default=0) > 1:", "agreeing with itself"),
    # all rounds are always played
    ("            break\n", "            pass\n", "accept it"),
    # ties: the later one
    ("sorted(first_written, key", "sorted(reversed(first_written), key", "equally often"),
    # only one system is counted
    ("intuitive[k] + deep[k]", "deep[k]", "most frequent answer of either"),
    ("intuitive[k] + deep[k]", "intuitive[k]", "by both together"),
    # the agreed answers are not sorted
    ("k in ranked if k in intuitive", "k in first_written if k in intuitive", "by both together"),
    # nothing is answered without agreement
    ("candidates = agreed or [first_written[k] for k in ranked]", "candidates = agreed",
     "Without agreement"),
    # the later spelling is kept
    ("first_written.setdefault(key, answer)", "first_written[key] = answer", "first spelling"),
    # dr before ir within a round
    ("((intuitive, solution), (deep, deep_solution))",
     "((deep, deep_solution), (intuitive, solution))", "within a round, ir's"),
    # dr is asked without the knowledge
    ('prompt("dr", question, knowledge)', 'prompt("dr", question)', "knowledge of its own round"),
    # a round is forgotten
    ("        history.append(Round(solution, knowledge, deep_solution))\n", "", "rounds"),
    # one round too many
    ("for _ in range(rounds):", "for _ in range(rounds + 1):", "stop in time"),
],
"lorid-2": [
    ("count[canonical(answer)]", "-count[canonical(answer)]", "most frequent"),
    ("count = Counter(map(canonical, answers))", "count = Counter({canonical(a): -i for i, a in "
     "enumerate(answers)})", "most frequent"),                                  # the last one
    ("max(answers, key", "max(reversed(answers), key", "written first wins"),   # ties
    (" if answer is not None]", "]", "state no answer"),
    ("count = Counter(map(canonical, answers))\n    majority = max(answers, key=lambda answer: "
     "count[canonical(answer)], default=None)", "majority = max(answers, key=answers.count, "
     "default=None)", "canonical says so"),
    ('[("ir", prompt("ir", question))] * k', '[("ir", question)] * k', "yields once"),
    (", rounds=[Round(text, None, None) for text in texts]", "", "for each text"),
],
"lorid-3": [
    ("text.rpartition", "text.partition", "the last counts"),
    (r"(?<!\\)[{}]", r"[{}]", "take no part"),
    ("            return rest[:brace.start()].strip() or None\n    return None\n",
     "            return rest[:brace.start()].strip() or None\n    return rest or None\n",
     "never closes"),
    (".strip() or None", " or None", "Blanks around"),
    (".strip() or None", ".strip()", "box of blanks"),
    ("1 if brace[0] == \"{\" else -1", "-1 if brace[0] == \"}\" else 0", "may hold braces"),
    ('"\\\\boxed{"', '"\\\\boxed"', "What stands in the box"),
    (" if box else ()", "", "Without a box"),
],
"model-1": [
    ("h.pow(2).mean(-1, keepdim=True) + self.eps)",
     "h.pow(2).mean(-1, keepdim=True)) + self.eps", "under the root"),
    ("        h = x.float()\n", "        h = x\n", "too large for float16"),
    ("h = x.float()\n", "h = x.float()\n        h = h - h.mean(-1, keepdim=True)\n",
     "mean is not subtracted"),
    (".mean(-1", ".sum(-1", "over the last dimension"),
    (".mean(-1", ".mean(1", "over the last dimension"),
    ("torch.rsqrt(", "(", "over the last dimension"),
    ("self.weight * h", "h", "over the last dimension"),
    ("h.to(x.dtype)", "h", "has the dtype of x"),
    ("self.weight * h.to(x.dtype)", "(self.weight * h).to(x.dtype)", "before it meets the weight"),
],
"model-2": [
    (" * sin", " * -sin", "The sign"),
    ("* cos + x", "* cos - x", "The sign"),
    # interleaved: channel 0 with channel 1
    (..., """
    turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    half = x.shape[-1] // 2
    c, s = cos[..., :half].repeat_interleave(2, -1), sin[..., half:].repeat_interleave(2, -1)
    return x * c + turned * s
    """, "paired with channel i + D/2"),
    # off by one position
    ("    return x", "    cos, sin = cos.roll(1, -2), sin.roll(1, -2)\n    return x",
     "angles of its token"),
    # sin and cos exchanged
    ("x * cos + x.roll(x.shape[-1] // 2, -1) * sin", "x * sin + x.roll(x.shape[-1] // 2, -1) * cos",
     "Position 0"),
    # the sign is there already: rotated twice as it is usually written
    (..., """
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin
    """, "b cos t + a sin t"),
    # rolled along the wrong dimension
    ("x.shape[-1] // 2, -1)", "1, -2)", "angles of its token"),
    ("// 2, -1)", "// 2 + 1, -1)", "paired with channel i + D/2"),
],
"model-3": [
    ("back >= 0 if", "back > 0 if", "itself and"),                       # off by one
    ("back >= 0 if", "back >= -1 if", "itself and"),
    ("back >= 0 if", "back <= 0 if", "itself and"),
    ("back < window", "back <= window", "With window 1"),
    ("(back >= 0) & (back < window)", "back < window", "With window 1"),
    ("-math.inf", "1.0", "0 there, -inf elsewhere"),
    ("queries[..., None] - keys\n", "torch.arange(queries.shape[-1])[:, None] - "
     "torch.arange(keys.shape[0])\n", "Positions count"),
    ("dtype=dtype", "dtype=torch.float32", "dtype that is asked for"),
],
"model-4": [
    ("(q / math.sqrt(D))", "q", "divided by sqrt(D)"),
    ("math.sqrt(D)", "D", "divided by sqrt(D)"),
    # heads in the wrong order: head h reads h % K
    (..., """
    B, H, T, D = q.shape
    K = k.shape[1]
    k, v = k.repeat(1, H // K, 1, 1), v.repeat(1, H // K, 1, 1)
    return (q @ k.transpose(2, 3) / math.sqrt(D) + mask).softmax(-1) @ v
    """, "h // (H / K)"),
    ("    scores += mask.repeat(1, 1, H // K, 1)\n", "", "must not see"),
    ("scores.softmax(-1)", "scores.softmax(-2)", "softmax(q k'"),
    # the mask multiplies
    ("scores += mask.repeat(1, 1, H // K, 1)",
     "scores *= (mask == 0).repeat(1, 1, H // K, 1)", "must not see"),
    # masked after the softmax, not renormalised
    (..., """
    B, H, T, D = q.shape
    K = k.shape[1]
    k, v = k.repeat_interleave(H // K, 1), v.repeat_interleave(H // K, 1)
    return (q @ k.transpose(2, 3) / math.sqrt(D)).softmax(-1) * (mask == 0) @ v
    """, "softmax(q k'"),
    # the mask of the first sequence for all
    ("mask.repeat(1", "mask[:1].repeat(1", "each sequence may have its own"),
    ("    q = (q / math.sqrt(D))", "    q = q.div_(math.sqrt(D))", "changed in place"),
    ("return (scores.softmax(-1) @ v)", "return (scores.float().softmax(-1) @ v.float())",
     "dtype of q"),
],
"model-5": [
    ("F.silu(self.gate_proj(x)) * self.up_proj(x)", "self.gate_proj(x) * F.silu(self.up_proj(x))",
     "silu is taken of the gate"),
    ("F.silu", "F.gelu", "silu(z)"),
    ("F.silu", "F.sigmoid", "silu(z)"),
    ("F.silu", "F.relu", "silu(z)"),
    (") * self", ") + self", "down(silu"),
    ("F.silu(self.gate_proj(x)) * self.up_proj(x)", "F.silu(self.gate_proj(x) * self.up_proj(x))",
     "silu is taken of the gate"),
],
"model-6": [
    ('"little"', '"big"', "was refused"),
    ("offset=8 + length + start", "offset=8 + start", "numbers of a float32"),
    ("start == end and ", "start >= end and ", "A hole"),
    ("start == end and ", "", "A hole"),
    (" and stop - start == count * dtype.itemsize", "", "do not fit its shape"),
    ('        check(8 + length + end == size, f"{size - 8 - length - end} bytes follow its last '
     'tensor")\n', "", "bytes follow the last tensor"),
    ('            check(8 + length + end <= size, f"{name} runs past its end")\n', "            "
     "if 8 + length + end > size:\n                return tensors\n", "runs past the end"),
    ('header.pop("__metadata__", {})', "{}", "was refused"),
    ("        entries = sorted((", "        entries = list((", "was refused"),
    ("KeyError, ", "", "without offsets"),
    (('"rb"', "ACCESS_COPY"), ('"r+b"', "ACCESS_WRITE"), "leave the file alone"),
],
"lora-1": [
    # the scale is applied twice; to W x, too; not at all
    ("return y + F.linear(Ax * self.adapter_scale.to(x.dtype), self.B.to(x.dtype))",
     "scale = self.adapter_scale.to(x.dtype)\n"
     "        return y + F.linear(Ax * scale * scale, self.B.to(x.dtype))", "scale counts once"),
    ("Ax * self.adapter_scale.to(x.dtype)", "Ax", "B (scale * (A x))"),
    ("return y + F", "return y * self.adapter_scale.mean() + F", "no part of W x"),
    # dropout on the base
    (..., """
        if self.training and self.dropout and self.adapter_scale is not None:
            x = dropout(x, self.dropout)
        y = self.base(x)
        if self.adapter_scale is None:
            return y
        Ax = F.linear(x, self.A.to(x.dtype))
        return y + F.linear(Ax * self.adapter_scale.to(x.dtype), self.B.to(x.dtype))
    """, "W sees x itself"),
    # dropout also in evaluation; never; on A x; without 1 / (1 - p)
    ("if self.training and self.dropout:", "if self.dropout:", "In evaluation"),
    ("if self.training and self.dropout:", "if False:", "In training"),
    ("            x = dropout(x, self.dropout)\n        Ax = F.linear(x, self.A.to(x.dtype))",
     "            pass\n        Ax = F.linear(x, self.A.to(x.dtype))\n"
     "        Ax = F.dropout(Ax, self.dropout, self.training)", "not on A x"),
    ("x = dropout(x, self.dropout)", "x = dropout(x, self.dropout) * (1 - self.dropout)",
     "becomes 0 or 1"),
    ("x = dropout(x, self.dropout)", "x = dropout(x, 1 - self.dropout)", "In training"),
    # the first scale for all
    ("Ax * self.adapter_scale.to", "Ax * self.adapter_scale.flatten()[:Ax.shape[-1]].to",
     "each sequence its own"),
    # no way back for the gradient
    ("self.A.to(x.dtype)", "self.A.detach().to(x.dtype)", "get gradients"),
    ("        if self.adapter_scale is None:\n            return y\n",
     "        if self.adapter_scale is None:\n            self.adapter_scale = torch.ones(1)\n",
     "W x is all"),
    ("        return y + ", "        return y.float() + ",
     "the result has the dtype of"),
],
"lora-2": [
    ("    model.requires_grad_(False)\n", "", "the base is frozen"),
    ("    model.requires_grad_(False)\n", "    for path, linear in linears:\n"
     "        linear.requires_grad_(path.split('.')[-1] not in targets)\n", "the base is frozen"),
    # a part of the name is enough
    ('if path.split(".")[-1] in targets:', "if any(t in path for t in targets):", "no other one"),
    ('if path.split(".")[-1] in targets:', 'if path.split(".")[-1] in targets[:1]:',
     "becomes a LoRALinear"),
    # B is drawn; A and B are zero
    ("            replace(model", "            nn.init.normal_(layer.B)\n            replace(model",
     "B must be zero"),
    ("            replace(model", "            nn.init.zeros_(layer.A)\n            replace(model",
     "A must not be zero"),
    ("parameters += [layer.A, layer.B]", "parameters += [layer.A]", "returns A and B"),
    ("parameters += [layer.A, layer.B]", "parameters += [layer.B, layer.A]", "returns A and B"),
    ("LoRALinear(linear, adapters, dropout)", "LoRALinear(linear, adapters)", "the dropout"),
    ("LoRALinear(linear, adapters, dropout)",
     "LoRALinear(nn.Linear(linear.in_features, linear.out_features), adapters, dropout)",
     "the layer that stood there"),
    ("    check_bare(model)\n", "", "carries adapters already"),
    ("if lost := set(targets) - names.keys():", "if lost := None:", "must be refused"),
    ("if lost := set(targets) - names.keys():", "if not (lost := set(targets)) & names.keys():",
     "must be refused"),
],
"lora-3": [
    ("table[index.to(table.device)]", "table[index.to(table.device)][:1]", "its own adapter"),
    ("table[0] if whole_batch", "table.sum(0) * 0 + 1 if whole_batch", "alpha / r"),
    # alpha, or 1, instead of alpha / r
    ("layer.scale_of(name) for name in used",
     "layer.scale_of(name) * layer.scale_of(name).count_nonzero() for name in used", "alpha / r"),
    ("layer.scale_of(name) for name in used", "(layer.scale_of(name) > 0).float() for name in used",
     "alpha / r"),
    # all adapters at once
    ("layer.scale_of(name) for name in used",
     "sum(map(layer.scale_of, layer.parts)) for name in used", "0 elsewhere"),
    # per token what was meant per sequence
    ("[n if isinstance(n, list) else [n] for n in names]",
     "[n if isinstance(n, list) else [n] for n in names[::-1]]", "its own adapter"),
    ("    check_names(layers, used)\n", "", "must be refused"),
    ("check_names(layers, used)", "check_names(layers, nested[0][:1])", "must be refused"),
    # the first layer's scale for all
    ("layout = str(layer.parts)", "layout = len(layer.parts)", "must have the shape"),
    ("None if names is None else scales[layout]", "scales[layout]", "adapter_scale is None"),
    # a layer that lacks the adapter takes its first one
    ("layer.scale_of(name) for name in used", "layer.scale_of(name if name in layer.parts or name "
     "is None else list(layer.parts)[0]) for name in used", "lacks the adapter"),
],
"data-1": [
    ("[0] * len(prompt) + [1] * len(completion)", "[1] * (len(prompt) + len(completion))",
     "prompt's tokens must not count"),
    ("[0] * len(prompt) + [1] * len(completion)",
     "[0] * len(prompt) + [1] * (len(completion) - 1) + [0]", "end token counts"),
    ("tokenizer.answer_ids(lorid.target(role, row))", "tokenizer.answer_ids(lorid.target(role, "
     "row))[:-1]", "answer_ids makes"),
    ("[0] * len(prompt)", "[0] * (len(prompt) - 1)", "same length"),
    ("[0] * len(prompt) + [1] * len(completion)",
     "[0] * (len(prompt) + 1) + [1] * (len(completion) - 1)", "must not count"),
    ('"\\n".join', '" ".join', "rule a line"),
    ("prompt(role, row[\"question\"], knowledge)", "prompt(role, row[\"question\"])", "knowledge"),
    ("lorid.target(role, row)", "row['rationale']", "answer_ids makes"),
    ("    check_row(row, role)\n", "    knowledge = 1\n", "must be refused"),
    # prompt and completion tokenized together
    (..., """
    check_row(row, role)
    asked = lorid.prompt(role, row["question"], "\\n".join(row["knowledge"]))
    n = len(tokenizer.prompt_ids(asked))
    whole = tokenizer.prompt_ids(asked + lorid.target(role, row)) + tokenizer.answer_ids("")
    return whole, [0] * n + [1] * (len(whole) - n)
    """, "tokenized apart"),
],
"train-1": [
    # the prompt is supervised; so is padding
    ("supervised = loss_mask[:, 1:].bool()", "supervised = loss_mask[:, 1:].bool() | True",
     "prompt's tokens must not count"),
    ("supervised = loss_mask[:, 1:].bool()", "supervised = (loss_mask[:, 1:] > 0) | "
     "(loss_mask.cumsum(1) * 0 + torch.arange(T) >= torch.tensor([[len(i)] for i, _ in examples]))"
     "[:, 1:]", "padding does not count"),
    # off by one
    ("return CrossEntropy.apply(logits, ids[:, 1:][supervised])",
     "return CrossEntropy.apply(logits, ids[:, :-1][supervised])", "for token t + 1"),
    ("supervised = loss_mask[:, 1:].bool()", "supervised = loss_mask[:, :-1].bool()",
     "for token t + 1"),
    # a mean, of tokens or of texts
    ("return CrossEntropy.apply(logits, ids[:, 1:][supervised])",
     "return CrossEntropy.apply(logits, ids[:, 1:][supervised]) / len(logits)", "is a sum"),
    ("return CrossEntropy.apply(logits, ids[:, 1:][supervised])",
     "return CrossEntropy.apply(logits, ids[:, 1:][supervised]) / len(examples)", "is a sum"),
    # padded on the left
    ("ids + [0] * (T - len(ids)), mask + [0] * (T - len(mask))",
     "[0] * (T - len(ids)) + ids, [0] * (T - len(mask)) + mask", "padding"),
    # logits of all positions
    ("model.logits(hidden[supervised])", "model.logits(hidden)[supervised]",
     "supervised positions only"),
    # no way back for the gradient
    ("return CrossEntropy.apply(logits,", "return CrossEntropy.apply(logits.detach(),",
     "grad"),
    ("return CrossEntropy.apply(logits, ids[:, 1:][supervised])",
     "return torch.nn.functional.cross_entropy(logits, ids[:, 1:][supervised], reduction='sum')",
     "bfloat16 is computed in"),
    ("CrossEntropy.apply(logits,", "CrossEntropy.apply(-logits,", "-log p"),
],
"train-2": [
    ("(step + 1) / warmup", "step / warmup", "first step is not lost"),
    ("step < warmup", "step <= warmup", "has the peak"),
    ("0.5 * (1 + math.cos(", "1 * (0 + math.cos(", "half a cosine"),
    ("math.pi * (step - warmup)", "2 * math.pi * (step - warmup)", "half of it"),
    ("math.pi * (step - warmup)", "math.pi * step", "has the peak"),
    (" / max(1, steps - warmup)", " / steps", "half of it"),
    ("    if step < warmup:\n        return peak * (step + 1) / warmup\n", "", "first step"),
    ("peak * 0.5", "0.5", "has the peak"),
],
"train-3": [
    ("1 - self.beta1 ** self.t, 1 - self.beta2 ** self.t", "1, 1", "1 - beta^t"),
    ("        self.t += 1\n", "        self.t = 1\n", "again and again"),
    # decay as a part of the gradient; not times lr
    ("            m.lerp_(", "            p.grad += self.decay * p\n            m.lerp_(",
     "no part of the gradient"),
    ("1 - lr * self.decay", "1 - self.decay", "lr decay p"),
    ("            p.mul_(1 - lr * self.decay)\n", "", "lr decay p"),
    # 1e-8 under the root
    ("(v.sqrt() / math.sqrt(correction2)).add_(1e-8)", "(v / correction2 + 1e-8).sqrt()",
     "added to the root"),
    ("m.lerp_(p.grad, 1 - self.beta1)", "m.copy_(p.grad)", "running averages"),
    ("addcmul_(p.grad, p.grad, value", "add_(p.grad.abs(), alpha",
     "however large the gradient"),
    ("            p.grad = None\n", "", "p.grad must be None"),
    ("value=-lr / correction1", "value=lr / correction1", "moves p by lr"),
    ("m.lerp_(p.grad, 1 - self.beta1)", "m.lerp_(p.grad, self.beta1)", "1 - beta^t"),
    ("for p, m, v in self.state:", "for p, m, v in self.state[:1]:", "Every parameter"),
],
"infer-1": [
    # the token that crosses is dropped
    ("p.cumsum(-1) - p < top_p", "p.cumsum(-1) <= top_p", "that crosses top_p stays"),
    # not renormalised after top-k
    (..., """
    if temperature == 0:
        ids = logits.argmax(-1, keepdim=True)
        return ids, torch.ones(ids.shape, device=ids.device)
    p, ids = (logits.float() / temperature).softmax(-1).sort(-1, descending=True)
    k = top_k or p.shape[-1]
    p, ids = p[:, :k], ids[:, :k]
    p = p * (p.cumsum(-1) - p < top_p)
    cumulative = p.cumsum(-1)
    return ids, cumulative / cumulative[:, -1:]
    """, "top_k first, renormalised"),
    # k larger than the vocabulary
    ("min(top_k or logits.shape[-1], logits.shape[-1])", "top_k or logits.shape[-1]",
     "out of range"),
    ("min(top_k or logits.shape[-1], logits.shape[-1])", "min(top_k, logits.shape[-1])",
     "top_k 0 keeps all"),
    ("(logits.float() / temperature)", "(logits.float() * temperature)", "divided by the temp"),
    # the temperature after top-p
    (..., """
    if temperature == 0:
        ids = logits.argmax(-1, keepdim=True)
        return ids, torch.ones(ids.shape, device=ids.device)
    logits, ids = logits.topk(min(top_k or logits.shape[-1], logits.shape[-1]))
    p = logits.float().softmax(-1)
    p = (p * (p.cumsum(-1) - p < top_p)) ** (1 / temperature)
    cumulative = p.cumsum(-1)
    return ids, cumulative / cumulative[:, -1:]
    """, "may be drawn"),
    # not renormalised at the end
    ("return ids, cumulative / cumulative[:, -1:]", "return ids, cumulative", "last running sum"),
    # probabilities instead of running sums
    ("    cumulative = p.cumsum(-1)\n    return ids, cumulative / cumulative[:, -1:]",
     "    return ids, p / p.sum(-1, keepdim=True)", "Running sums never fall"),
    # temperature 0 divides by it
    ("    if temperature == 0:\n", "    if temperature < 0:\n", "Temperature 0"),
    ("logits.float() / temperature", "logits / temperature", "cumulative is in"),
    ("logits, ids = logits.topk(", "logits /= 1\n    logits += 1\n    logits, ids = logits.topk(",
     "changed in place"),
],
"infer-2": [
    ("cumulative < u", "cumulative <= u", "u = 0.25"),
    ("return ids.gather(-1, (cumulative < u[:, None]).sum(-1, keepdim=True))[:, 0]",
     "return (cumulative < u[:, None]).sum(-1)", "reaches u"),
    ("u[:, None]", "u[:1, None]", "its own u"),
    ("cumulative < u[:, None]", "cumulative > u[:, None]", "out of bounds"),
    ("(cumulative < u[:, None]).sum(-1, keepdim=True)",
     "(cumulative - u[:, None]).abs().argmin(-1, keepdim=True)", "reaches u"),
    (")[:, 0]", ")", "shape"),
],
"engine-1": [
    # the token that differs is dropped
    ("        tokens.append(token)\n        if token != drafted or token in eos_ids:\n"
     "            break\n", "        if token != drafted or token in eos_ids:\n            break\n"
     "        tokens.append(token)\n", "that one included"),
    # goes on after the first that differs
    ("        if token != drafted or token in eos_ids:\n            break\n",
     "        if token in eos_ids:\n            break\n", "that one included"),
    (..., """
    drawn_ends = [i for i, token in enumerate(drawn) if token in eos_ids]
    same = [token for token, drafted in zip(drawn, draft) if token == drafted]
    tokens = same + [drawn[len(same)]]
    return tokens[:drawn_ends[0] + 1] if drawn_ends else tokens
    """, "that one included"),
    # the draft itself is trusted
    ("tokens.append(token)", "tokens.append(token if drafted is None else drafted)",
     "that one included"),
    # the extra token is lost
    ("[*draft, None], strict=True", "draft, strict=False", "one more comes"),
    (" or token in eos_ids", "", "end token"),
    ("token in eos_ids", "token == eos_ids[0]", "Any of the end tokens"),
    ("token in eos_ids", "drafted in eos_ids and False", "end token"),
    ("    tokens = []\n", "    tokens = []\n    if drawn[0] in eos_ids:\n        return []\n",
     "end token"),
],
}


# --------------------------------------------------------------------------------------------------
# Other ways to be right: whole bodies


SOLUTIONS = {
"lorid-1": ["""
    # lists, and every answer compared with every other one
    given, history = [], []

    def agreed_on(a):
        said = {system for system, b in given if same_answer(a, b)}
        return said == {"ir", "dr"}

    while len(history) < rounds:
        first, rule = yield [("ir", prompt("ir", question)), ("kg", prompt("kg", question))]
        second = (yield [("dr", prompt("dr", question, rule))])[0]
        history.append(Round(first, rule, second))
        for system, text in (("ir", first), ("dr", second)):
            if extract_answer(text) is not None:
                given.append((system, extract_answer(text)))
        if any(agreed_on(a) for _, a in given):
            break
    different = []
    for _, a in given:
        if not any(same_answer(a, b) for b in different):
            different.append(a)
    different.sort(key=lambda a: -sum(same_answer(a, b) for _, b in given))
    both = [a for a in different if agreed_on(a)]
    best = (both or different or [None])[0]
    return Verdict(answer=best, agreed=both, rounds=history)
    """, """
    # one dictionary: key -> [first spelling, times by ir, times by dr]
    seen, verdict = {}, Verdict(None)
    for t in range(rounds):
        ir_text, kg_text = yield [(role, prompt(role, question)) for role in ("ir", "kg")]
        dr_text, = yield [("dr", prompt("dr", question, kg_text))]
        verdict.rounds.append(Round(ir_text, kg_text, dr_text))
        for i, text in enumerate((ir_text, dr_text), 1):
            answer = extract_answer(text)
            if answer is None:
                continue
            entry = seen.setdefault(canonical(answer), [answer, 0, 0])
            entry[i] += 1
        if any(a and b for _, a, b in seen.values()):
            break
    order = sorted(seen.values(), key=lambda entry: -(entry[1] + entry[2]))
    verdict.agreed = [entry[0] for entry in order if entry[1] and entry[2]]
    if order:
        verdict.answer = verdict.agreed[0] if verdict.agreed else order[0][0]
    return verdict
    """],
"lorid-2": ["""
    texts = yield [("ir", prompt("ir", question)) for _ in range(k)]
    best, most = None, 0
    for text in texts:
        answer = extract_answer(text)
        times = sum(same_answer(answer, extract_answer(other)) for other in texts)
        if times > most:
            best, most = answer, times
    return Verdict(best, [], [Round(text, None, None) for text in texts])
    """, """
    request = ("ir", prompt("ir", question))
    texts = yield [request] * k
    spelling, times = {}, Counter()
    for answer in map(extract_answer, texts):
        if answer is not None:
            spelling.setdefault(canonical(answer), answer)
            times[canonical(answer)] += 1
    rounds = [Round(intuitive=t, knowledge=None, deep=None) for t in texts]
    if not times:
        return Verdict(None, rounds=rounds)
    return Verdict(spelling[times.most_common(1)[0][0]], rounds=rounds)
    """],
"lorid-3": [r"""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, i, begin = 1, start + len("\\boxed{"), start + len("\\boxed{")
    while i < len(text):
        if text[i - 1] != "\\":
            depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            inside = text[begin:i].strip()
            return inside if inside else None
        i += 1
    return None
    """, r"""
    # what is printed is hidden first, place by place
    hidden = text.replace("\\{", "\0\0").replace("\\}", "\0\0")
    parts = hidden.split("\\boxed{")
    if len(parts) == 1:
        return None
    rest, depth = parts[-1], 1
    for i, c in enumerate(rest):
        depth += (c == "{") - (c == "}")
        if not depth:
            begin = len(text) - len(rest)
            return text[begin:begin + i].strip() or None
    """],
"model-1": ["""
        wide = x.to(torch.float32)
        size = torch.sqrt((wide * wide).mean(dim=-1, keepdim=True) + self.eps)
        return (wide / size).to(x.dtype) * self.weight
    """, """
        return F.rms_norm(x.float(), x.shape[-1:], None, self.eps).type_as(x) * self.weight
    """, """
        h = x.double()
        mean = torch.einsum("...c,...c->...", h, h) / x.shape[-1]
        return ((h / (mean + self.eps)[..., None] ** 0.5).to(x.dtype) * self.weight)
    """],
"model-2": ["""
    a, b = x.chunk(2, -1)
    c, s = cos.chunk(2, -1)[0], sin.chunk(2, -1)[1]
    return torch.cat((a * c - b * s, b * c + a * s), -1)
    """, """
    # complex numbers
    half = x.shape[-1] // 2
    z = torch.complex(x[..., :half], x[..., half:])
    z = z * torch.complex(cos[..., :half], sin[..., half:])
    return torch.cat((z.real, z.imag), -1)
    """, """
    y = torch.zeros_like(x)
    half = x.shape[-1] // 2
    for i in range(half):
        c, s = cos[..., i], sin[..., i + half]
        y[..., i] = x[..., i] * c - x[..., i + half] * s
        y[..., i + half] = x[..., i + half] * c + x[..., i] * s
    return y
    """],
"model-3": ["""
    q, k = queries.unsqueeze(-1), keys.expand(*queries.shape, -1)
    hidden = k > q
    if window is not None:
        hidden = hidden | (k <= q - window)
    return torch.where(hidden, float("-inf"), 0.0).to(dtype)
    """, """
    mask = torch.zeros(*queries.shape, len(keys), dtype=dtype)
    for place in torch.cartesian_prod(*map(torch.arange, mask.shape)).tolist():
        back = int(queries[tuple(place[:-1])] - keys[place[-1]])
        if back < 0 or (window and back >= window):
            mask[tuple(place)] = -math.inf
    return mask
    """],
"model-4": ["""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, mask)
    """, """
    B, H, T, D = q.shape
    grouped = q.unflatten(1, (k.shape[1], -1))
    scores = torch.einsum("bkgtd,bksd->bkgts", grouped, k) / D ** 0.5 + mask[:, :, None]
    e = (scores - scores.amax(-1, keepdim=True)).exp()
    weights = e / e.sum(-1, keepdim=True)
    return torch.einsum("bkgts,bksd->bkgtd", weights, v).flatten(1, 2)
    """, """
    # one head of one sequence after the other
    B, H, T, D = q.shape
    y = torch.empty_like(q)
    for b in range(B):
        for h in range(H):
            own = h // (H // k.shape[1])
            scores = q[b, h] @ k[b, own].T / math.sqrt(D) + mask[b if len(mask) > 1 else 0, 0]
            y[b, h] = torch.softmax(scores, -1) @ v[b, own]
    return y
    """],
"model-5": ["""
        gate, up = self.gate_proj(x), self.up_proj(x)
        return self.down_proj(gate * torch.sigmoid(gate) * up)
    """, """
        g = x @ self.gate_proj.weight.T
        h = g / (1 + torch.exp(-g)) * torch.einsum("...c,hc->...h", x, self.up_proj.weight)
        return h @ self.down_proj.weight.T
    """],
"model-6": ["""
    # all in memory; numbers by way of bytes
    raw = Path(path).read_bytes()
    n = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or n > len(raw) - 8:
        raise ValueError(f"{path} is cut short")
    header, body, result, at = json.loads(raw[8:8 + n]), raw[8 + n:], {}, 0
    if type(header) is not dict:
        raise ValueError(f"{path} has no header")
    header.pop("__metadata__", None)
    try:
        entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    except (KeyError, TypeError):
        raise ValueError(f"{path} has a header of another form") from None
    for name, entry in entries:
        begin, end = entry["data_offsets"]
        dtype = DTYPES.get(entry["dtype"])
        shape = entry["shape"]
        if dtype is None or begin != at or end > len(body) or any(s < 0 for s in shape):
            raise ValueError(f"{path}: {name} is wrong")
        if end - begin != math.prod(shape) * torch.empty(0, dtype=dtype).element_size():
            raise ValueError(f"{path}: {name} has another size")
        data = torch.tensor(list(body[begin:end]), dtype=torch.uint8)
        result[name] = data.view(dtype).reshape(shape)
        at = end
    if at != len(body):
        raise ValueError(f"{path} has another length")
    return result
    """, """
    import struct
    with open(path, "rb") as file:
        data = bytearray(file.read())
    try:
        (size,) = struct.unpack_from("<Q", data)
        header = json.loads(bytes(data[8:8 + size]))
        assert 8 + size <= len(data)
        tensors = {n: e for n, e in header.items() if n != "__metadata__"}
        spans = sorted(e["data_offsets"] for e in tensors.values())
        assert [b for _, b in [[0, 0], *spans]][:-1] == [a for a, _ in spans]
        assert (spans[-1][1] if spans else 0) == len(data) - 8 - size
        for e in tensors.values():
            a, b = e["data_offsets"]
            assert all(n >= 0 for n in e["shape"])
            assert b - a == math.prod(e["shape"]) * DTYPES[e["dtype"]].itemsize
    except (AssertionError, struct.error, KeyError, TypeError, AttributeError, ValueError):
        raise ValueError(f"{path} is not whole") from None
    return {n: torch.frombuffer(data, dtype=DTYPES[e["dtype"]], offset=8 + size +
                                e["data_offsets"][0], count=math.prod(e["shape"])
                                ).reshape(e["shape"])
            if math.prod(e["shape"]) else torch.empty(e["shape"], dtype=DTYPES[e["dtype"]])
            for n, e in tensors.items()}
    """],
"lora-1": ["""
        # F.dropout, plain products
        y = self.base(x)
        if self.adapter_scale is None:
            return y
        h = F.dropout(x, self.dropout, self.training) @ self.A.T.to(x.dtype)
        h = h * self.adapter_scale.to(h.dtype)
        return y + h @ self.B.T.to(x.dtype)
    """, """
        # einsum in float32, a mask of our own, the scale on B's side
        if self.adapter_scale is None:
            return self.base(x)
        h = x.float()
        if self.training and self.dropout > 0:
            h = h * (torch.rand(h.shape) >= self.dropout) / (1 - self.dropout)
        scale = self.adapter_scale.expand(*x.shape[:-1], -1).float()
        update = torch.einsum("bti,ri,btr,or->bto", h, self.A, scale, self.B)
        return (self.base(x) + update).to(x.dtype)
    """, """
        # adapter by adapter
        y = self.base(x)
        if self.adapter_scale is not None:
            dropped = nn.functional.dropout(x, p=self.dropout, training=self.training)
            scale = torch.broadcast_to(self.adapter_scale, (*x.shape[:-1], len(self.A)))
            for part, _ in self.parts.values():
                Ax = F.linear(dropped, self.A[part].to(x.dtype))
                y = y + F.linear(Ax * scale[..., part].to(x.dtype), self.B[:, part].to(x.dtype))
        return y
    """],
"lora-2": ["""
    # recursion over children
    if any(isinstance(m, LoRALinear) for m in model.modules()):
        raise ValueError("there are adapters already")
    present = {name.split(".")[-1] for name, m in model.named_modules() if type(m) is nn.Linear}
    for target in targets:
        if target not in present:
            raise ValueError(f"no layer is called {target}")
    for p in model.parameters():
        p.requires_grad = False
    trained = []

    def visit(parent):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and name in targets:
                new = LoRALinear(child, adapters, dropout)
                setattr(parent, name, new)
                trained.extend((new.A, new.B))
            else:
                visit(child)

    visit(model)
    return trained
    """, """
    check_bare(model)
    found = [(p, m) for p, m in model.named_modules()
             if isinstance(m, nn.Linear) and p.rpartition(".")[2] in targets]
    missing = set(targets) - {p.rpartition(".")[2] for p, _ in found}
    if missing:
        raise ValueError(f"not in this model: {missing}")
    for path, module in found:
        replace(model, path, LoRALinear(module, adapters, dropout=dropout))
    for name, p in model.named_parameters():
        p.requires_grad_(name.endswith((".A", ".B")))
    return [p for p in model.parameters() if p.requires_grad]
    """],
"lora-3": ["""
    # always a list of lists, layer by layer
    def flat(x):
        return [y for inner in x for y in flat(inner)] if isinstance(x, list) else [x]

    known = {name for _, layer in lora_layers(model) for name in layer.parts} | {None}
    for name in flat(names):
        if name not in known:
            raise ValueError(f"no adapter is called {name}")
    for _, layer in lora_layers(model):
        if names is None:
            layer.adapter_scale = None
            continue
        rows = names if isinstance(names, list) else [names]
        rows = [row if isinstance(row, list) else [row] for row in rows]
        layer.adapter_scale = torch.stack(
            [torch.stack([layer.scale_of(name) for name in row]) for row in rows])
    """, """
    layers = [layer for _, layer in lora_layers(model)]
    if names is None:
        for layer in layers:
            layer.adapter_scale = None
        return
    if isinstance(names, str):
        check_names(lora_layers(model), [names])
        for layer in layers:
            layer.adapter_scale = layer.scale_of(names) if names in layer.parts else None
        return
    grid = [name if isinstance(name, list) else [name] for name in names]
    check_names(lora_layers(model), [name for row in grid for name in row])
    for layer in layers:
        scale = torch.zeros(len(grid), len(grid[0]), layer.A.shape[0])
        for b, row in enumerate(grid):
            for t, name in enumerate(row):
                if name in layer.parts:
                    part, value = layer.parts[name]
                    scale[b, t, part] = value
        layer.adapter_scale = scale
    """],
"data-1": [r"""
    check_row(row, role)
    asked = lorid.prompt(role, row["question"], "\n".join(row["knowledge"]))
    ids, loss_mask = [], []
    for token in tokenizer.prompt_ids(asked):
        ids.append(token)
        loss_mask.append(0)
    for token in tokenizer.answer_ids(lorid.target(role, row)):
        ids.append(token)
        loss_mask.append(1)
    return ids, loss_mask
    """, r"""
    check_row(row, role)
    rules = "\n".join(row["knowledge"]) if role == "dr" else ""
    prompt = tokenizer.prompt_ids(lorid.prompt(role, row["question"], rules))
    ids = [*prompt, *tokenizer.answer_ids(lorid.target(role, row))]
    return ids, [int(i >= len(prompt)) for i in range(len(ids))]
    """],
"train-1": ["""
    # text by text, without padding
    total = torch.zeros((), device=model.device)
    for ids, loss_mask in examples:
        tokens = torch.tensor([ids], device=model.device)
        positions = [t - 1 for t in range(1, len(ids)) if loss_mask[t]]
        logits = model.logits(model(tokens)[0, positions]).float()
        total = total + torch.nn.functional.cross_entropy(
            logits, tokens[0, [t + 1 for t in positions]], reduction="sum")
    return total
    """, """
    # padded with 1, the whole text goes in, log-sum-exp by hand
    T = max(len(ids) for ids, _ in examples)
    ids = torch.ones(len(examples), T, dtype=torch.long)
    keep = torch.zeros(len(examples), T, dtype=torch.bool)
    for i, (tokens, loss_mask) in enumerate(examples):
        ids[i, :len(tokens)] = torch.tensor(tokens)
        keep[i, :len(tokens)] = torch.tensor(loss_mask) > 0
    b, t = keep[:, 1:].nonzero(as_tuple=True)
    logits = model.logits(model(ids)[b, t]).float()
    chosen = logits[torch.arange(len(b)), ids[b, t + 1]]
    return (torch.logsumexp(logits, -1) - chosen).sum()
    """],
"train-2": ["""
    if step < warmup:
        return (step + 1) * (peak / warmup)
    done = (step - warmup) / (steps - warmup)
    return peak * math.cos(math.pi * done / 2) ** 2
    """, """
    rise = min(1.0, (step + 1) / warmup)
    left = max(0, step - warmup) / max(1, steps - warmup)
    return peak * rise * (0.5 + 0.5 * math.cos(left * math.pi))
    """],
"train-3": ["""
        self.t += 1
        for p, m, v in self.state:
            g = p.grad
            m *= self.beta1
            m += (1 - self.beta1) * g
            v *= self.beta2
            v += (1 - self.beta2) * g ** 2
            p -= lr * self.decay * p
            p -= lr * (m / (1 - self.beta1 ** self.t)) / (
                (v / (1 - self.beta2 ** self.t)).sqrt() + 1e-8)
            p.grad = None
    """, """
        # averages that are corrected as they are kept, in float64
        self.t += 1
        for p, m, v in self.state:
            old1, old2 = (1 - b ** (self.t - 1) for b in (self.beta1, self.beta2))
            new1, new2 = (1 - b ** self.t for b in (self.beta1, self.beta2))
            g = p.grad.double()
            m.copy_((self.beta1 * old1 * m.double() + (1 - self.beta1) * g) / new1)
            v.copy_((self.beta2 * old2 * v.double() + (1 - self.beta2) * g * g) / new2)
            p.copy_((1 - lr * self.decay) * p - lr * m / (v.sqrt() + 1e-8))
            p.grad = None
    """],
"infer-1": ["""
    # sort all, cut by place
    if temperature == 0:
        best = logits.max(-1, keepdim=True)
        return best.indices, torch.ones_like(best.values, dtype=torch.float32)
    values, ids = torch.sort(logits.float(), -1, descending=True)
    if top_k:
        values, ids = values[:, :top_k], ids[:, :top_k]
    p = torch.softmax(values / temperature, -1)
    before = torch.cat((torch.zeros(len(p), 1), p.cumsum(-1)[:, :-1]), -1)
    p = torch.where(before < top_p, p, torch.zeros_like(p))
    p = p / p.sum(-1, keepdim=True)
    cumulative = p.cumsum(-1)
    cumulative[:, -1] = 1
    return ids, cumulative
    """, """
    # row by row, in Python
    import math
    if temperature == 0:
        return logits.topk(1).indices, torch.ones(len(logits), 1)
    all_ids, sums = [], []
    for row in logits.float().tolist():
        order = sorted(range(len(row)), key=lambda i: -row[i])[:top_k or len(row)]
        e = [math.exp((row[i] - row[order[0]]) / temperature) for i in order]
        kept, reached = [], 0.0
        for x in e:
            kept.append(x if reached < top_p * sum(e) else 0.0)
            reached += x
        all_ids.append(order)
        sums.append([sum(kept[:i + 1]) / sum(kept) for i in range(len(kept))])
    return torch.tensor(all_ids), torch.tensor(sums)
    """],
"infer-2": ["""
    place = torch.searchsorted(cumulative, u[:, None])
    return torch.take_along_dim(ids, place, 1).squeeze(1)
    """, """
    drawn = []
    for row, sums, x in zip(ids, cumulative, u, strict=True):
        drawn.append(next(i for i, c in zip(row, sums, strict=True) if c >= x))
    return torch.stack(drawn)
    """, """
    return ids[torch.arange(len(u)), (cumulative >= u[:, None]).int().argmax(-1)]
    """],
"engine-1": ["""
    n = 0
    while n < len(draft) and draft[n] == drawn[n] and drawn[n] not in eos_ids:
        n += 1
    return drawn[:n + 1]
    """, """
    if draft and drawn[0] == draft[0] and drawn[0] not in eos_ids:
        return [drawn[0], *accept(draft[1:], drawn[1:], eos_ids)]
    return [drawn[0]]
    """],
}

# --------------------------------------------------------------------------------------------------


def body_of(name):
    exercise = EXERCISES[name]
    return (ROOT / exercise.file).read_text(encoding="utf-8")[exercise.start:exercise.end]


def with_body(name, body):
    """The text of an exercise's file with another body of it."""
    exercise = EXERCISES[name]
    text = (ROOT / exercise.file).read_text(encoding="utf-8")
    return text[:exercise.start] + body + text[exercise.end:]


def fitted(name, body):
    """A body as it would stand in its function."""
    indent = re.match(" *", body_of(name))[0]
    return textwrap.indent(textwrap.dedent(body).strip("\n"), indent) + "\n"


def graded(name, text, monkeypatch, tmp_path, seed="0"):
    """[(check, None or its sentence)] of an exercise in a file with this text."""
    path = tmp_path / f"variant_{name.replace('-', '_')}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    variant = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, variant)
    script = EXERCISES[name].file.rpartition("/")[2].removesuffix(".py")
    grader = importlib.import_module(f"course.test_{script}")
    monkeypatch.setenv("LORID_SEED", seed)
    monkeypatch.setattr(grader, script, variant)
    spec.loader.exec_module(variant)
    own, told = lines_of(variant, EXERCISES[name].function), []
    for check, function in vars(grader).items():
        if check.startswith(f"test_{name.replace('-', '_')}_"):
            try:
                function()
                told.append((check, None))
            except Exception as error:
                told.append((check, sentence(error, path.name, own, check)))
    assert told
    return told


def everyday(name, i, most):
    """The first ones are tried every day."""
    return pytest.param(name, i, marks=[pytest.mark.slow] if i >= most else [])


@pytest.mark.parametrize("name, i", [everyday(name, i, 4) for name in MISTAKES
                                     for i in range(len(MISTAKES[name]))])
def test_mistakes_are_caught(name, i, monkeypatch, tmp_path):
    """And the right property is named."""
    old, new, words = MISTAKES[name][i]
    if old is ...:
        body = fitted(name, new)
    else:
        body = body_of(name)
        for a, b in [(old, new)] if isinstance(old, str) else zip(old, new, strict=True):
            assert a in body, "the finished body has changed: change this edit of it"
            body = body.replace(a, b)
    wrong = [why for _, why in graded(name, with_body(name, body), monkeypatch,
                                          tmp_path) if why]
    assert wrong, "not caught"
    assert any(words in why for why in wrong), "\n".join(wrong)


# Edits that make the function fail on the way: what was tried, and a part of the line to blame.
FAILS = {
    "a helper": ("lora-1", "        if self.adapter_scale is None:\n            return y\n", "",
                 "With adapter_scale None: AttributeError: ", "self.adapter_scale.to"),
    "a rule": ("lorid-2", ", default=None)", ")", "If no text states an answer, there is none. "
               "(The texts say None, None.) ValueError: max() ", "majority = max("),
    "the arguments": ("engine-1", "tokens.append(token)", "draft[len(tokens)], "
                      "tokens.append(token)", "one more comes. accept([5, 6], [5, 6, 7], "
                      "eos_ids=[0]): IndexError: ", "draft[len(tokens)]"),
    "below the function": ("lorid-1", "[deep_solution] = yield", "deep_solution = yield",
                           "Both say the same in round 1: accept it. (ir says ",
                           "extract_answer(text)"),
    "a check's name": ("model-3", "back < window", "back < len(window)",
                       "In the check 'window': TypeError: ", "len(window)"),
}


@pytest.mark.parametrize("what", FAILS)
def test_an_exception_is_told_with_what_was_tried(what, monkeypatch, tmp_path):
    name, old, new, words, blamed = FAILS[what]
    assert old in body_of(name)
    text = with_body(name, body_of(name).replace(old, new))
    wrong = " / ".join(why for _, why in graded(name, text, monkeypatch, tmp_path) if why)
    assert words in wrong
    line = re.search(r"\(line (\d+) of ", wrong[wrong.index(words):])
    assert blamed in text.splitlines()[int(line[1]) - 1]


# Whole sentences: (old, new or a body, what is said)
SAID = {
    "no yield is reached": ("lorid-2", ..., """
    if k < 0:
        yield
    return Verdict(None)
    """, "It must be a generator: no `yield` was reached."),
    "k yields": ("lorid-2", 'texts = yield [("ir", prompt("ir", question))] * k', """texts = []
    for _ in range(k):
        texts += yield [("ir", prompt("ir", question))]""", "It yields once, k equal requests to "
                 "ir: with k = 3 asked 3 times for 1, expected once for 3."),
    "one yield of one": ("lorid-2", "))] * k", "))]", "It yields once, k equal requests to ir: "
                         "with k = 3 asked once for 1, expected once for 3."),
    "long lists": ("lora-2", "    model.requires_grad_(False)\n", "", "Only A and B are trained; "
                   "the base is frozen, wrapped or not. At [0]: Expected 'blocks.0.attn.v_proj.A', "
                   "got 'blocks.0.attn.q_proj.weight'."),
    "a dtype": ("lora-1", "        return y + ", "        return y.float() + ", "x and W in "
                "bfloat16, A and B in float32: the result has the dtype of x. Expected "
                "torch.bfloat16, got torch.float32."),
    "a sign": ("model-2", "x.roll(", "torch.where(torch.arange(x.shape[-1]) < x.shape[-1] // 2, -1,"
               " 1) * x.roll(", "The sign: the pair (0, 1), turned by 90 degrees, must become (-1, "
               "0). The first half of sin is negated already, x's must not be negated again. "
               "Expected [-1, 0], got [1, -4.3711e-08]."),
}


@pytest.mark.parametrize("what", SAID)
def test_what_is_said(what, monkeypatch, tmp_path):
    name, old, new, said = SAID[what]
    body = fitted(name, new) if old is ... else body_of(name).replace(old, new)
    assert body != body_of(name)
    wrong = [why for _, why in graded(name, with_body(name, body), monkeypatch, tmp_path)]
    assert said in wrong


@pytest.mark.parametrize("count", ["len(logits)", "len(examples)"])
def test_a_mean_is_told_before_its_consequences(count, monkeypatch, tmp_path):
    loss = "CrossEntropy.apply(logits, ids[:, 1:][supervised])"
    body = body_of("train-1").replace(loss, f"{loss} / {count}")
    wrong = [why for _, why in graded("train-1", with_body("train-1", body), monkeypatch, tmp_path)
             if why and not why.startswith("-log p of each")]
    assert wrong[0].startswith("The loss is a sum: ")


def test_of_long_values_the_difference_is_shown():
    def said(got, expected):
        with pytest.raises(AssertionError) as error:
            equal("A rule.", got, expected)
        return str(error.value)

    assert said([1, 2], [1, 3]) == "A rule. Expected [1, 3], got [1, 2]."
    many = list(range(100, 150))
    assert said([*many[:45], 7, *many[46:]], many) == "A rule. At [45]: Expected 145, got 7."
    assert said(many[:-1], many) == "A rule. Expected 50 items, got 49; at [49] comes 149."
    assert said([*many, 7], many) == "A rule. Expected 50 items, got 51; at [50] comes 7."
    assert said([], many) == "A rule. Expected 50 items, got 0; at [0] comes 100."
    long = "a" * 200
    assert said([many, long + "b"], [many, long + "c"]) == (
        "A rule. At [1]: After 'aaaaaaaaaaaaaaaaaaaa' expected 'c', got 'b'.")
    assert said(tuple(many), many).startswith("A rule. Expected [100, 101, ")


@pytest.mark.parametrize("name, i", [everyday(name, i, 2) for name in SOLUTIONS
                                     for i in range(len(SOLUTIONS[name]))])
def test_other_ways_are_accepted(name, i, monkeypatch, tmp_path):
    body = fitted(name, SOLUTIONS[name][i])
    assert body != body_of(name)
    for seed in ("0", "7"):
        told = graded(name, with_body(name, body), monkeypatch, tmp_path, seed)
        assert [why for _, why in told if why] == []


def test_every_exercise_is_proven():
    assert list(MISTAKES) == list(SOLUTIONS) == list(EXERCISES)
    assert min(map(len, MISTAKES.values())) >= 4 and min(map(len, SOLUTIONS.values())) >= 2
