"""A fast training pass over the parameters of a transformers OlmoeForCausalLM.

transformers loops over the experts one at a time, which is slow for 64 tiny experts on a CPU.
Here the rows are sorted by expert, padded to the longest expert and multiplied by batched
products over all experts. `check_against_transformers` compares logits with transformers' own.

Letters: T tokens of the batch, E experts, K experts per token, C rows of the busiest expert,
H hidden size, I width of an expert.
"""

import torch
import torch.nn.functional as F


class _Experts(torch.autograd.Function):
    """Weighted sum of expert outputs, with gathers only (scatters are slow on a CPU)."""

    @staticmethod
    def forward(ctx, x, weights, gate_up, down, rows, slots):
        # x [T, H], weights [T, K], gate_up [E, 2I, H], down [E, H, I]
        # rows [E, C]: the token of each slot, T in empty slots; slots [T, K]: the slot of each route
        num_tokens, hidden = x.shape
        num_experts, capacity = rows.shape
        slot_weights = weights.new_zeros(num_experts * capacity)
        slot_weights[slots.reshape(-1)] = weights.reshape(-1)
        slot_weights = slot_weights.view(num_experts, capacity, 1)
        taken = rows.clamp(max=num_tokens - 1).reshape(-1)
        inputs = x.index_select(0, taken).view(num_experts, capacity, hidden)
        gate, up = torch.bmm(inputs, gate_up.transpose(1, 2)).chunk(2, dim=-1)
        sigmoid = torch.sigmoid(gate)
        silu = gate * sigmoid
        act = silu * up
        outputs = torch.bmm(act * slot_weights, down.transpose(1, 2)).view(-1, hidden)
        result = outputs.index_select(0, slots.reshape(-1)).view(num_tokens, -1, hidden).sum(1)
        ctx.save_for_backward(inputs, gate, up, sigmoid, silu, act, slot_weights, gate_up, down, taken, slots)
        return result

    @staticmethod
    def backward(ctx, grad):
        inputs, gate, up, sigmoid, silu, act, slot_weights, gate_up, down, taken, slots = ctx.saved_tensors
        num_tokens, hidden = grad.shape
        num_experts, capacity = slot_weights.shape[:2]
        grad_out = grad.index_select(0, taken).view(num_experts, capacity, hidden)
        # An empty slot has weight 0, so its act column and its gradient are 0 below.
        grad_down = torch.bmm(grad_out.transpose(1, 2), act * slot_weights)
        grad_weighted = torch.bmm(grad_out, down)
        grad_slot_weights = (grad_weighted * act).sum(-1)
        grad_act = grad_weighted * slot_weights
        grad_gate = grad_act * up * (sigmoid * (1 + gate - silu))
        grad_gate_up_out = torch.cat([grad_gate, grad_act * silu], dim=-1)
        grad_gate_up = torch.bmm(grad_gate_up_out.transpose(1, 2), inputs)
        grad_inputs = torch.bmm(grad_gate_up_out, gate_up).view(-1, hidden)
        flat_slots = slots.reshape(-1)
        grad_x = grad_inputs.index_select(0, flat_slots).view(num_tokens, -1, hidden).sum(1)
        grad_weights = grad_slot_weights.view(-1).index_select(0, flat_slots).view_as(slots)
        return grad_x, grad_weights, grad_gate_up, grad_down, None, None


def _group_by_expert(experts: torch.Tensor, num_experts: int):
    """Returns rows [E, C], slots [T, K] and counts [E] for chosen experts [T, K]."""
    num_tokens, top_k = experts.shape
    flat = experts.reshape(-1)
    counts = torch.bincount(flat, minlength=num_experts)
    capacity = int(counts.max())
    order = torch.argsort(flat, stable=True)
    sorted_experts = flat[order]
    starts = torch.cumsum(counts, 0) - counts
    place = torch.arange(flat.numel()) - starts[sorted_experts]
    sorted_slots = sorted_experts * capacity + place
    rows = torch.full((num_experts * capacity,), num_tokens)
    rows[sorted_slots] = order // top_k
    slots = torch.empty_like(flat)
    slots[order] = sorted_slots
    return rows.view(num_experts, capacity), slots.view(num_tokens, top_k), counts


def forward(model, tokens: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor):
    """Returns hidden states after the last norm [B, L, H], the auxiliary loss, and counts [layers, E].

    tokens, positions: [B, L] int64. mask: [B, 1, L, L] bool, true where attention may look.
    The auxiliary loss is the mean over layers of E * sum_e(share of routes * mean probability),
    which is 1 for an even router (Fedus et al., Switch Transformers, section 2.2).
    """
    cfg = model.config
    batch, length = tokens.shape
    hidden, heads, kv_heads = cfg.hidden_size, cfg.num_attention_heads, cfg.num_key_value_heads
    head_dim = hidden // heads
    cos, sin = model.model.rotary_emb(torch.zeros(1), positions)  # [B, L, head_dim]
    cos, sin = cos[:, :, None], sin[:, :, None]

    def rotate(t):
        first, second = t.chunk(2, dim=-1)
        return t * cos + torch.cat((-second, first), dim=-1) * sin

    x = F.embedding(tokens, model.model.embed_tokens.weight)
    aux, all_counts = 0.0, []
    for layer in model.model.layers:
        attn = layer.self_attn
        h = F.rms_norm(x, (hidden,), layer.input_layernorm.weight, cfg.rms_norm_eps)
        q = F.rms_norm(F.linear(h, attn.q_proj.weight), (heads * head_dim,), attn.q_norm.weight, cfg.rms_norm_eps)
        k = F.rms_norm(F.linear(h, attn.k_proj.weight), (kv_heads * head_dim,), attn.k_norm.weight, cfg.rms_norm_eps)
        v = F.linear(h, attn.v_proj.weight)
        q = rotate(q.view(batch, length, heads, head_dim)).transpose(1, 2)
        k = rotate(k.view(batch, length, kv_heads, head_dim)).transpose(1, 2)
        v = v.view(batch, length, kv_heads, head_dim).transpose(1, 2)
        k = k.repeat_interleave(heads // kv_heads, 1)
        v = v.repeat_interleave(heads // kv_heads, 1)
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + F.linear(o.transpose(1, 2).reshape(batch, length, -1), attn.o_proj.weight)

        moe = layer.mlp
        h = F.rms_norm(x, (hidden,), layer.post_attention_layernorm.weight, cfg.rms_norm_eps).view(-1, hidden)
        probs = F.softmax(F.linear(h, moe.gate.weight), dim=-1)
        weights, experts = torch.topk(probs, cfg.num_experts_per_tok, dim=-1)
        if cfg.norm_topk_prob:
            weights = weights / weights.sum(-1, keepdim=True)
        rows, slots, counts = _group_by_expert(experts, cfg.num_experts)
        y = _Experts.apply(h, weights, moe.experts.gate_up_proj, moe.experts.down_proj, rows, slots)
        x = x + y.view(batch, length, hidden)
        share = counts / counts.sum()
        aux = aux + cfg.num_experts * (share * probs.mean(0)).sum()
        all_counts.append(counts)
    x = F.rms_norm(x, (hidden,), model.model.norm.weight, cfg.rms_norm_eps)
    return x, aux / cfg.num_hidden_layers, torch.stack(all_counts)


def check_against_transformers(model, seed: int = 0) -> float:
    """Returns the largest difference of logits and gradients to transformers on random tokens."""
    gen = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, model.config.vocab_size, (2, 40), generator=gen)
    positions = torch.arange(40).expand(2, -1)
    mask = torch.ones(40, 40, dtype=torch.bool).tril().expand(2, 1, 40, 40)
    params = [p for p in model.parameters() if p.requires_grad]
    ours = F.linear(forward(model, tokens, positions, mask)[0], model.lm_head.weight)
    theirs = model(tokens).logits
    worst = (ours - theirs).abs().max().item()
    target = torch.randn(ours.shape, generator=gen)
    for mine, other in zip(torch.autograd.grad((ours * target).mean(), params),
                           torch.autograd.grad((theirs * target).mean(), params)):
        worst = max(worst, (mine - other).abs().max().item())
    return worst
