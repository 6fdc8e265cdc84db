"""A fast training pass over the parameters of a transformers OlmoeForCausalLM.

transformers loops over the experts one at a time, which is slow for 64 tiny experts on a CPU.
Here the rows are sorted by expert and multiplied by grouped products over all experts.
`check_against_transformers` compares logits and gradients with transformers' own.

Letters: B rows, L tokens of a row, T = B * L tokens, E experts, K experts per token, H hidden size,
I width of an expert.
"""

import torch
import torch.nn.functional as F


class _Experts(torch.autograd.Function):
    """Weighted sum of expert outputs, with gathers only (scatters are slow on a CPU)."""

    @staticmethod
    def forward(ctx, x, weights, gate_up, down, order, ends):
        # x [T, H], weights [T, K], gate_up [E, 2I, H], down [E, H, I]
        # order [T * K]: the routes (token * K + choice) sorted by expert; ends [E]: where each expert's end
        num_tokens, top_k = weights.shape
        taken = order // top_k
        place = torch.empty_like(order)
        place[order] = torch.arange(order.numel())
        route_weights = weights.reshape(-1)[order].unsqueeze(1)
        inputs = x.index_select(0, taken)
        gate, up = F.grouped_mm(inputs, gate_up.transpose(1, 2), offs=ends).chunk(2, dim=-1)
        sigmoid = torch.sigmoid(gate)
        silu = gate * sigmoid
        weighted = silu * up * route_weights
        outputs = F.grouped_mm(weighted, down.transpose(1, 2), offs=ends)
        ctx.save_for_backward(inputs, gate, up, sigmoid, silu, route_weights, gate_up, down, taken, place, ends)
        return outputs.index_select(0, place).view(num_tokens, top_k, -1).sum(1)

    @staticmethod
    def backward(ctx, grad):
        inputs, gate, up, sigmoid, silu, route_weights, gate_up, down, taken, place, ends = ctx.saved_tensors
        num_tokens = grad.shape[0]
        act = silu * up
        grad_out = grad.index_select(0, taken)
        grad_down = F.grouped_mm(grad_out.t(), act * route_weights, offs=ends)
        grad_weighted = F.grouped_mm(grad_out, down, offs=ends)
        grad_weights = (grad_weighted * act).sum(-1).index_select(0, place).view(num_tokens, -1)
        grad_act = grad_weighted * route_weights
        grad_gate_up_out = torch.cat([grad_act * up * (sigmoid * (1 + gate - silu)), grad_act * silu], dim=-1)
        grad_gate_up = F.grouped_mm(grad_gate_up_out.t(), inputs, offs=ends)
        grad_inputs = F.grouped_mm(grad_gate_up_out, gate_up, offs=ends)
        grad_x = grad_inputs.index_select(0, place).view(num_tokens, grad_weights.shape[1], -1).sum(1)
        return grad_x, grad_weights, grad_gate_up, grad_down, None, None


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
        order = torch.argsort(experts.view(-1), stable=True)
        counts = torch.bincount(experts.view(-1), minlength=cfg.num_experts)
        ends = counts.cumsum(0).to(torch.int32)
        y = _Experts.apply(h, weights, moe.experts.gate_up_proj, moe.experts.down_proj, order, ends)
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
